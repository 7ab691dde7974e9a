"""How long a training takes: operations a token, over what the device does."""

import math
from typing import Final

from narrowcast.estimates.architecture import Architecture
from narrowcast.estimates.gpus import peak_flops
from narrowcast.estimates.shapes import Range, TrainingShape

_UTILISATION: Final = Range.of(0.15, 0.45)
"""Of the data sheet's peak. LoRA's thin matrices, dequantisation and short rows keep it below the 0.4 –
0.5 of large pre-training runs. An 8B shape with rows of 2,048 tokens, NF4, on an H100: 0.42 for unsloth,
0.22 for peft. Other types of GPU, and shorter rows, are a guess until a job has been measured there."""
_GIGA: Final = 10**9
_CPU_CORE_BF16: Final = Range.of(28 * _GIGA, 54 * _GIGA)
_CPU_CORE_FLOAT: Final = Range.of(8 * _GIGA, 16 * _GIGA)
"""Of one core: SmolLM2-135M, r=16, trained 100 – 190 tokens/s on two AVX-512 BF16 cores under autocast, and
56 in float32, at the operations a token that are counted here; the lower end on shared cores."""


def steps(rows: int, batch_size: int, epochs: int) -> int:
    """Return the optimizer steps; an epoch's last batch may be short."""
    return math.ceil(rows / batch_size) * epochs


def flops_per_token(architecture: Architecture, shape: TrainingShape, tokens_per_row: float) -> float:
    """Return the floating-point operations to train on one token.

    Two for each weight that a token meets going forward, two for the gradient of its input; a trained
    weight takes two more for its own gradient, a frozen one none (Kaplan et al. 2020, 2.1, without the
    weights' half of the backward pass). On a GPU the forward pass of the layers is done twice, because
    activations are recomputed. Causal attention meets half of a row on average, for scores and for values.
    """
    recomputed = 1 if shape.device == "cuda" else 0
    frozen = (2 + recomputed) * 2 * architecture.linear_weights
    trained = (3 + recomputed) * 2 * architecture.lora_parameters(shape.rank, shape.modules)
    attention = 2 * 2 * architecture.layers * architecture.query_width * tokens_per_row / 2
    # TRL's loss makes each tile of logits once more for the gradient.
    passes = 3 if shape.engine == "peft" and shape.device == "cuda" else 2
    output_layer = passes * 2 * architecture.vocabulary * architecture.hidden
    return frozen + trained + (3 + recomputed) * attention + output_layer


def unit_flops(shape: TrainingShape, device_name: str) -> Range | None:
    """Return the operations a second to expect of a GPU, or of one core of a CPU, before any is measured.

    None for a GPU that is not in the table.
    """
    if shape.device == "cpu":
        return _CPU_CORE_BF16 if shape.autocast else _CPU_CORE_FLOAT
    peak = peak_flops(device_name)
    return None if peak is None else _UTILISATION * peak

"""Activations and temporaries at the peak of a step, in bytes.

Two moments compete: the backward pass of one layer, and the loss. The larger one is the peak.
"""

import math
from typing import Final

from narrowcast.estimates.architecture import Architecture
from narrowcast.estimates.shapes import Range, TrainingShape

_GIB: Final = 1024**3
_FLOAT, _HALF = 4, 2

# unsloth_zoo 2026.10.7, fused_losses/cross_entropy_loss.py: the rows are cut so that a piece, at 16 B a
# logit, takes no more than half of what is free, 4 GiB at most; the number of pieces is 1 or a multiple
# of 4.
_BUDGET_BYTES_PER_LOGIT: Final = 16
_BUDGET_CAP: Final = 4 * _GIB
_PIECES: Final = 4
_COMPILED_BYTES_PER_LOGIT: Final = 4
"""16-bit logits and their 16-bit gradient: the compiler fuses what is between."""
_EAGER_BYTES_PER_LOGIT: Final = 14
"""The same file's count for where compiling fails: 16-bit logits, float32 copy, log-softmax, gradient."""

# TRL 1.16, kernels/chunked_logprob.py: one tile of logits in 16 bits, gradients of the inputs in float32.
_TILE_ROWS: Final = 4096
_TILE_COLUMNS: Final = 32_768

_NF4_BLOCK: Final = 64
_LORA_LINEARS: Final = 7
_PEFT_GRADIENTS: Final = (3, 5)
"""Of the feed-forward part's width, in 16 bits: what its backward pass holds at least and at most."""
_PUBLISHED_OVER_COUNTED: Final = 1.39
"""Unsloth's table of the longest rows that fit (docs, December 2024: Llama-3.1-8B, r=32, one row; 21,848
tokens in 12 GB, 342,733 in 80 GB) grows by 222 KiB a token, what is counted here by 160. Rows of a
report's length do not show it: the loss is larger then."""


def activations(architecture: Architecture, shape: TrainingShape) -> Range:
    """Return what a step holds beside weights, gradients and the optimizer's state."""
    if shape.engine == "unsloth":
        return _unsloth(architecture, shape)
    return _peft_cuda(architecture, shape) if shape.device == "cuda" else _peft_cpu(architecture, shape)


def saved_per_token(architecture: Architecture, rank: int, *, half: bool, int8: bool = False) -> int:
    """Return the bytes a token that autograd keeps of one decoder layer of transformers with PEFT's LoRA.

    Counted from the saved tensors; a test counts them again with PyTorch's own hooks. The norms keep
    their input in float32 and a scale; SDPA keeps q, k, v, its output and a float32 a head; the gate
    keeps its input, its output and what it multiplies; each LoRA keeps its A's output.

    Args:
        architecture: of the base.
        rank: of LoRA.
        half: under autocast. PEFT casts each LoRA's input to float32 and autocast casts it back, so
            that each of the seven keeps a 16-bit copy of its own. Without, q, k and v share one, as do
            gate and up.
        int8: bitsandbytes' product in 8 bits keeps its own input too (autograd/_functions.py); those of
            q, k and v are one, as are gate's and up's, and o's is attention's output.
    """
    hidden, inner = architecture.hidden, architecture.intermediate
    norms = 2 * (hidden + 1) * _FLOAT
    heads = architecture.heads * _FLOAT
    element = _HALF if half else _FLOAT
    attention = 2 * (architecture.query_width + architecture.kv_width) * element
    gate = 3 * inner * element
    ranks = _LORA_LINEARS * rank * element
    if half:
        inputs = (5 * hidden + architecture.query_width + inner) * _HALF
    else:
        inputs = (2 * hidden + inner) * _FLOAT
    products = (2 * hidden + inner) * element if int8 else 0
    return norms + heads + attention + gate + inputs + ranks + products


def _dequantized(architecture: Architecture, shape: TrainingShape) -> int:
    """Return one linear's weights in 16 bits with its scales in float32, for the matrix product."""
    if shape.quantization == "none":
        return 0
    widest = architecture.widest_linear
    return widest * _HALF + (widest // _NF4_BLOCK * _FLOAT if shape.quantization == "nf4" else 0)


def _unsloth(architecture: Architecture, shape: TrainingShape) -> Range:
    """Return the peak with ``use_gradient_checkpointing="unsloth"``.

    Layer inputs lie in the host's memory; two buffers bring them back. A layer is recomputed by
    unsloth's fused kernels (kernels/fast_lora.py), which keep: both norms' outputs, q, k, v, attention's
    output, the residual between, gate and up; backward adds the gate's gradient (the others are written
    in place), the gradients of the layer's output and input, and one buffer for dequantised weights.
    An 8-bit base has none of those kernels (unsloth/models/loader.py gives it to FastModel): its layer is
    PEFT's.
    """
    tokens = shape.tokens
    stream = tokens * architecture.hidden * _HALF
    inner = tokens * architecture.intermediate * _HALF
    attention = tokens * (2 * architecture.query_width + 2 * architecture.kv_width) * _HALF
    scales = tokens * (architecture.heads + 2) * _FLOAT
    fixed = 2 * stream + _dequantized(architecture, shape)
    layer: float
    most: float
    if shape.quantization == "int8":
        saved = tokens * saved_per_token(architecture, shape.rank, half=True, int8=True)
        layer, most = (fixed + saved + 2 * stream + times * inner for times in _PEFT_GRADIENTS)
    else:
        layer = fixed + 3 * stream + attention + scales + 2 * inner + inner + 2 * stream
        buffer = _dequantized(architecture, shape)
        most = buffer + _PUBLISHED_OVER_COUNTED * (layer - buffer)
    # Hidden states before and after the last norm, and their gradient.
    loss = fixed + 3 * stream
    piece, largest = _unsloth_pieces(architecture, shape)
    of_longest = Range.of(
        max(layer, loss + piece * architecture.vocabulary * _COMPILED_BYTES_PER_LOGIT),
        max(most, loss + piece * architecture.vocabulary * _EAGER_BYTES_PER_LOGIT),
    )
    of_any = loss + largest * architecture.vocabulary * _EAGER_BYTES_PER_LOGIT
    return Range(low=of_longest.low, expected=of_longest.expected, high=max(of_longest.high, of_any))


def _unsloth_pieces(architecture: Architecture, shape: TrainingShape) -> tuple[int, int]:
    """Return the tokens of one piece of the loss: of the longest rows, and at most of any shorter ones.

    As many as are just not cut yet are more than a fourth of those that are.
    """
    budget: float = _BUDGET_CAP
    if shape.memory_bytes is not None:
        # Half of what is free at the first step; the base takes at least half a byte a weight.
        loaded = architecture.linear_weights / 2 + architecture.embeddings * _HALF
        budget = min(budget, max(shape.memory_bytes - loaded, _GIB) / 2)
    whole = int(budget / (architecture.vocabulary * _BUDGET_BYTES_PER_LOGIT))
    if shape.tokens <= whole:
        return shape.tokens, shape.tokens
    pieces = shape.tokens * architecture.vocabulary * _BUDGET_BYTES_PER_LOGIT / budget
    return math.ceil(shape.tokens / (math.ceil(pieces / _PIECES) * _PIECES)), whole


def _peft_cuda(architecture: Architecture, shape: TrainingShape) -> Range:
    """Return the peak with transformers' gradient checkpointing.

    Every layer's input stays on the GPU. The layer that is recomputed keeps :func:`saved_per_token`;
    its backward pass through the feed-forward part holds three gradients of that width in 16 bits, or
    five in bytes where PEFT's casts to float32 meet them. TRL computes the loss in tiles.
    """
    tokens = shape.tokens
    stream = tokens * architecture.hidden * _HALF
    checkpoints = (architecture.layers + 1) * stream + _dequantized(architecture, shape)
    inner = tokens * architecture.intermediate * _HALF
    int8 = shape.quantization == "int8"
    saved = tokens * saved_per_token(architecture, shape.rank, half=True, int8=int8)
    casts = architecture.lora_parameters(shape.rank, shape.modules) * _HALF
    layer = checkpoints + saved + casts // architecture.layers + 2 * stream
    tile = min(tokens, _TILE_ROWS) * min(architecture.vocabulary, _TILE_COLUMNS) * _HALF
    # Autocast keeps 16-bit copies of LoRA's weights until the forward pass ends.
    loss = checkpoints + 2 * stream + tokens * architecture.hidden * _FLOAT + tile + casts
    low, high = _PEFT_GRADIENTS
    return Range.of(max(layer + low * inner, loss), max(layer + high * inner, loss))


def _peft_cpu(architecture: Architecture, shape: TrainingShape) -> Range:
    """Return the peak on a CPU, where nothing is recomputed and every layer's tensors stay.

    Under autocast each frozen float32 weight leaves a 16-bit copy in the graph. The loss takes the
    labelled rows only (engines/completion.py): logits, a copy, float32, log-softmax; all rows at most,
    half of them at least.
    """
    tokens = shape.tokens
    half = shape.autocast
    element = _HALF if half else _FLOAT
    saved = architecture.layers * tokens * saved_per_token(architecture, shape.rank, half=half)
    output_layer = architecture.vocabulary * architecture.hidden
    frozen = architecture.linear_weights if shape.quantization == "none" else architecture.widest_linear
    casts = (
        (frozen + output_layer + architecture.lora_parameters(shape.rank, shape.modules)) * _HALF
        if half
        else 0
    )
    backward = 2 * tokens * architecture.intermediate * element
    logits = tokens * architecture.vocabulary * (2 * element + 2 * _FLOAT)
    fixed = saved + casts + backward
    return Range.of(fixed + logits / 2, fixed + logits)

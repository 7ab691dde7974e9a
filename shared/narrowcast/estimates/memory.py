"""Peak memory of LoRA training, term by term, in bytes.

Each function says where its formula comes from. For the paper's case (Llama-3.1-8B, r=64 on all
seven linears, 2 rows of 2048 tokens, NF4 with double quantisation, ``unsloth``), in GiB::

    weights                  5.208   linears 0.5 B, embedding and output layer 2 B each
    quantisation constants   0.103   1 B per 64 weights and a float32 per 256 of those
    LoRA, gradients          1.250   167,772,160 parameters, 4 B each
    optimizer                0.317   8-bit AdamW: 2 B and 8/256 B
    activations        0.76 – 3.76   one layer recomputed, or the loss of one piece of the rows
    allocator          0.00 – 1.01   what PyTorch reserves and does not use
    total              7.64 – 11.65  expected 8.64; the paper reports 8.84

The paper's "8.84 GB" is what Unsloth's notebooks print as "Peak reserved memory":
``torch.cuda.max_memory_reserved() / 1024 ** 3``, so GiB, without CUDA's own context.
"""

from collections.abc import Mapping
from typing import Final

from narrowcast.errors import InvalidInput
from narrowcast.estimates.activations import activations
from narrowcast.estimates.architecture import Architecture, Linear
from narrowcast.estimates.shapes import Range, TrainingShape

GIB: Final = 1024**3
_MIB: Final = 1024**2
_FLOAT, _HALF, _BYTE = 4, 2, 1

# bitsandbytes' 4-bit types (functional.quantize_4bit): one scale per block, itself quantised to 8 bits
# in blocks of 256 with a float32 scale each, an offset, and two code books.
_NF4_WEIGHTS_PER_BYTE: Final = 2
_NF4_BLOCK: Final = 64
_NF4_NESTED_BLOCK: Final = 256
_NF4_FIXED: Final = (16 + 256 + 1) * _FLOAT

# bitsandbytes' 8-bit AdamW (optim.optimizer): two states of a byte and a float32 scale per block of
# 256; tensors below 4096 elements keep float32 states.
_ADAM_STATES: Final = 2
_ADAM_BLOCK: Final = 256
_ADAM_8BIT_FROM: Final = 4096

_RESERVED_GIB, _ALLOCATED_GIB = 5.984, 5.466
"""Llama-3.1-8B, r=16, after loading, an NVIDIA L4, Unsloth 2024.8: ``max_memory_reserved`` as a published
log has it, and what the terms below give for that moment (weights, constants, LoRA's 41,943,040 x 4 B)."""
_MOST_SLACK: Final = _RESERVED_GIB / _ALLOCATED_GIB - 1

_CUDA_CONTEXT: Final = Range.of(256 * _MIB, 768 * _MIB)
"""Driver, cuBLAS workspaces, loaded kernels: what nvidia-smi shows of a process beyond what PyTorch
reserves. From 0.25 GiB (Turing) to 0.75 GiB (Hopper); not part of PyTorch's figures."""
_CPU_PROCESS: Final = Range.of(600 * _MIB, 1400 * _MIB)
"""Resident memory of a training process beside its tensors: 612 MiB after its imports, and at most what
two measured trainings of SmolLM2-135M held beyond the terms below (1.28 and 1.38 GiB, slack included)."""


def memory_terms(architecture: Architecture, shape: TrainingShape) -> dict[str, Range]:
    """Return what PyTorch allocates at the peak, by purpose; on each GPU, where several share the training.

    Raises:
        InvalidInput: ``engine_unavailable``, ``quantization_unavailable`` or ``batch_size_not_shared``: no
            training goes like that.
    """
    _check(shape)
    trainable = architecture.lora_parameters(shape.rank, shape.modules) * _FLOAT
    terms = {
        "weights": Range.of(_weights(architecture, shape)),
        "quantization_constants": Range.of(_constants(architecture, shape)),
        # float32 in both engines, whatever the base's type: bf16 would swallow small updates.
        "lora": Range.of(trainable),
        "gradients": Range.of(trainable),
        "optimizer": Range.of(_optimizer(architecture, shape)),
        "activations": activations(architecture, shape),
    }
    if shape.parallelism == "fsdp":
        for name in ("weights", "lora", "gradients", "optimizer"):
            terms[name] *= 1 / shape.ranks
        terms["weights"] += _gathered(architecture)
        # Over several micro-batches they add up whole, in 16 bits, before each rank gets its part: Trainer
        # has them exchanged with the last (accelerate's ``no_sync``).
        terms["gradients"] += Range.of(0, trainable / _FLOAT * _HALF)
    elif shape.ranks > 1:
        # DDP's buckets, by which ranks exchange gradients, are copies (gradient_as_bucket_view is off).
        terms["gradients"] *= 2
    return terms


def _check(shape: TrainingShape) -> None:
    if shape.engine == "unsloth" and shape.device == "cpu":
        raise InvalidInput("the engine unsloth needs CUDA", code="engine_unavailable", param="engine")
    if shape.parallelism != "fsdp":
        return
    if shape.engine == "unsloth":
        message = "bases are sharded over GPUs there, which the engine peft alone can do"
        raise InvalidInput(message, code="engine_unavailable", param="engine")
    if shape.quantization != "none":
        message = f"bases are sharded over GPUs there, and one in {shape.quantization} cannot be"
        raise InvalidInput(message, code="quantization_unavailable", param="quantization")
    if shape.ranks == 1:
        message = "bases are sharded over GPUs there, no two of which share such a batch evenly"
        raise InvalidInput(message, code="batch_size_not_shared", param="batch_size")


def slack(allocated: Range) -> Range:
    """Return what the allocator holds beyond ``allocated``.

    Freed blocks that fit no later request stay reserved. None at best; at most the share that was
    measured after loading (9.5 %), when the largest blocks have just been freed.
    """
    return Range(low=0, expected=allocated.expected * _MOST_SLACK / 2, high=allocated.high * _MOST_SLACK)


def uncertain(terms: Mapping[str, Range], shape: TrainingShape) -> Range:
    """Return what of :func:`memory_terms`, and beside them, is a guess that a measured job can correct.

    Weights, LoRA, gradients and the optimizer's states are exact: no job needs less of them.
    """
    allocated = sum(terms.values(), Range.of(0))
    process = (
        context(shape) if shape.device == "cpu" else Range.of(0)
    )  # of a CPU's, all that it holds is measured
    return terms["activations"] + slack(allocated) + process


def context(shape: TrainingShape) -> Range:
    """Return what the process takes before the first tensor."""
    return _CUDA_CONTEXT if shape.device == "cuda" else _CPU_PROCESS


def _weights(architecture: Architecture, shape: TrainingShape) -> int:
    # Embedding, output layer, norms and biases are never quantised (bitsandbytes replaces nn.Linear but
    # for the output layer). A CPU's base is float32: see engines.precision.Precision.
    other = architecture.parameters - architecture.linear_weights
    element = _HALF if shape.device == "cuda" else _FLOAT
    if shape.quantization == "nf4":
        return architecture.linear_weights // _NF4_WEIGHTS_PER_BYTE + other * element
    if shape.quantization == "int8":
        return architecture.linear_weights * _BYTE + other * element
    return architecture.parameters * element


def _gathered(architecture: Architecture) -> Range:
    """Return what a GPU holds of the others' parts of a base for the while that it computes with them.

    FSDP2 gathers layer by layer, the next one while it computes (``fully_shard``): two layers, and a third
    where one is still in the buffer that it came in. Output layer and last norm are a unit that stays
    (accelerate 1.15, ``fsdp2_prepare_model``).
    """
    layer = architecture.linear_weights // architecture.layers * _HALF
    tail = architecture.vocabulary * architecture.hidden * _HALF
    return Range.of(2 * layer + tail, 3 * layer + tail)


def _constants(architecture: Architecture, shape: TrainingShape) -> int:
    if shape.quantization == "none":
        return 0
    of_layer = sum(
        _nf4_constants(linear) if shape.quantization == "nf4" else linear.outputs * _FLOAT  # LLM.int8's rows
        for linear in architecture.linears
    )
    return architecture.layers * of_layer


def _nf4_constants(linear: Linear) -> int:
    blocks = -(-linear.weights // _NF4_BLOCK)
    return blocks * _BYTE + -(-blocks // _NF4_NESTED_BLOCK) * _FLOAT + _NF4_FIXED


def _optimizer(architecture: Architecture, shape: TrainingShape) -> int:
    # On CUDA bitsandbytes' adamw_8bit; on a CPU, and of parts of tensors, torch.optim.AdamW with two float32
    # states.
    eight_bit = shape.device == "cuda" and shape.parallelism != "fsdp"
    tensors = [
        shape.rank * side
        for linear in architecture.targets(shape.modules)
        for side in (linear.inputs, linear.outputs)
    ]
    return architecture.layers * sum(
        _adam_8bit(size) if eight_bit else size * _ADAM_STATES * _FLOAT for size in tensors
    )


def _adam_8bit(size: int) -> int:
    if size < _ADAM_8BIT_FROM:
        return size * _ADAM_STATES * _FLOAT
    return _ADAM_STATES * (size * _BYTE + -(-size // _ADAM_BLOCK) * _FLOAT)

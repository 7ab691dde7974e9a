"""In what numbers to train: what the hardware computes natively, and how the frozen base is stored."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch

from narrowcast.errors import JobFailed
from narrowcast.estimates.shapes import Parallelism
from narrowcast.training import QuantizationName

Quantization = Literal["nf4", "int8", "none"]
_AMPERE = (8, 0)
"""The first compute capability with bf16 tensor cores; Turing (T4) emulates bf16, slower than its fp16."""


@dataclass(frozen=True)
class Capability:
    """What decides precision."""

    cuda: tuple[int, int] | None
    """Compute capability of the GPU; None without one."""
    cpu_bf16: bool
    """Whether the CPU has instructions for bf16 products (AVX-512 BF16 or AMX)."""


def capability() -> Capability:
    """Ask the hardware. The only place that does."""
    cpu = torch.cpu.get_capabilities()
    return Capability(
        cuda=torch.cuda.get_device_capability() if torch.cuda.is_available() else None,
        cpu_bf16=bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16")),
    )


@dataclass(frozen=True)
class Precision:
    """The adapter's own weights are float32 in all of them."""

    base: torch.dtype
    """Of the weights that are not quantised."""
    autocast: torch.dtype | None
    """What products are computed in; None: in float32, without autocast."""

    @property
    def compute(self) -> torch.dtype:
        """What quantised weights are unpacked to."""
        return self.autocast or torch.float32

    @classmethod
    def of(cls, node: Capability) -> "Precision":
        """Return the fastest that the node computes natively."""
        if node.cuda is not None:
            half = torch.bfloat16 if node.cuda >= _AMPERE else torch.float16
            return cls(half, half)
        # On a CPU not bf16 weights: float32 ones under bf16 autocast trained 212 tokens/s against
        # 185 (SmolLM2-135M, 8 rows of 256 tokens, two cores with AVX-512 BF16).
        return cls(torch.float32, torch.bfloat16 if node.cpu_bf16 else None)


def quantization(asked: QuantizationName, node: Capability, parallelism: Parallelism = "ddp") -> Quantization:
    """Return how to store the base: as asked, else NF4 on CUDA and not at all on a CPU.

    There NF4 saves memory that is not short and takes three times as long.

    Raises:
        JobFailed: ``quantization_unavailable``, this node has no bitsandbytes, or parts of a base
            on several GPUs, which bitsandbytes' tensors cannot be cut into.
    """
    if parallelism == "fsdp":
        if asked in {"nf4", "int8"}:
            raise JobFailed(
                f"this node shards bases over its GPUs, and one in {asked} cannot be; use auto or none",
                code="quantization_unavailable",
                param="quantization",
            )
        return "none"
    chosen: Quantization = asked if asked != "auto" else ("none" if node.cuda is None else "nf4")
    if chosen != "none":
        try:
            import bitsandbytes  # noqa: F401
        except Exception as error:  # it raises what it likes where its native library does not load
            raise _no_bitsandbytes(chosen) from error
        # For each product of an int8 layer, some 450 a micro-batch of an 8B base, it warns that bf16 is cast.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return chosen


def check_quantized(model: Any, asked: Quantization) -> None:
    """Refuse a model that was to be quantised and is not.

    Where bitsandbytes is imported but its native library does not load, unsloth trains in 16 bits and
    only prints so: several times the memory, and a training card that says NF4.

    Raises:
        JobFailed: ``quantization_unavailable``.
    """
    attribute = {"nf4": "is_loaded_in_4bit", "int8": "is_loaded_in_8bit"}.get(asked)
    if attribute is not None and not getattr(model, attribute, False):
        raise _no_bitsandbytes(asked)


def _no_bitsandbytes(asked: Quantization) -> JobFailed:
    return JobFailed(
        f"this node cannot quantise to {asked}: bitsandbytes does not load",
        code="quantization_unavailable",
        param="quantization",
    )


def bitsandbytes_config(chosen: Quantization, precision: Precision) -> Any:
    """Return the configuration for ``from_pretrained``; None for an unquantised base.

    NF4 with double quantisation, as QLoRA has it (Dettmers et al. 2023, section 3).
    """
    from transformers import BitsAndBytesConfig

    if chosen == "nf4":
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.compute,
        )
    if chosen == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    return None

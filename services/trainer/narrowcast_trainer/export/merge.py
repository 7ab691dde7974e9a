"""Folds an adapter into its base, one file of the base at a time, on the CPU.

PEFT's own ``merge_and_unload`` wants the whole model in memory: 16 GB for 8 billion parameters.
The sum is the same, ``W + scale * B @ A``; a test holds the two together.
"""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from narrowcast.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from narrowcast.errors import JobFailed

_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
_PREFIX: Final = "base_model.model."
_FLOATS: Final = (torch.float32, torch.bfloat16, torch.float16)
_NOT_WEIGHTS: Final = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
Precision = Literal["base", "f16"]
"""Of merged weights: the base's own 16 bits, or float16, whose three more bits of mantissa keep more
of a small adapter. What the adapter does not touch stays as it is either way."""


class Adapter:
    """The differences that an adapter makes, in PEFT's format on disk."""

    def __init__(self, folder: Path) -> None:
        self._config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text())
        self._tensors = load_file(folder / ADAPTER_WEIGHTS)
        self._unused = set(self._tensors)

    def delta(self, weight: str) -> torch.Tensor | None:
        """Return what to add to a base's weight, in float32; None if the adapter leaves it alone."""
        module = weight.removesuffix(".weight")
        names = [f"{_PREFIX}{module}.lora_{side}.weight" for side in "AB"]
        if not all(name in self._tensors for name in names):
            return None
        self._unused.difference_update(names)
        a, b = (self._tensors[name].float() for name in names)
        delta = (b @ a) * self._scale(module, rank=len(a))
        return delta.T if self._config.get("fan_in_fan_out") else delta

    def check_all_used(self) -> None:
        """Check that every tensor of the adapter has found its weight.

        Raises:
            JobFailed: ``adapter_does_not_fit``, naming one that has not.
        """
        if self._unused:
            raise JobFailed(
                f"the base has no weight for {len(self._unused)} tensors of the adapter,"
                f" first {min(self._unused)}",
                code="adapter_does_not_fit",
            )

    def _scale(self, module: str, rank: int) -> float:
        alpha = float(self._config["lora_alpha"])
        if pattern := self._config.get("alpha_pattern"):
            from peft.utils.other import get_pattern_key  # seconds to import, and hardly ever needed

            alpha = float(pattern.get(get_pattern_key(list(pattern), module), alpha))
        return alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)


def merge(
    base: Path, adapter: Path, destination: Path, precision: Precision, advanced: Callable[[str], None]
) -> None:
    """Write base and adapter as one checkpoint in Hugging Face's format, in 16 bits.

    Holds one file of the base in memory, at most about 5 GB as they are commonly cut.

    Args:
        base: its folder.
        adapter: its folder, in PEFT's format.
        destination: a new folder.
        precision: of merged weights.
        advanced: is told each step.

    Raises:
        JobFailed: ``base_not_16bit``, ``adapter_does_not_fit``, or ``not_finite`` if a sum is no
            number that 16 bits hold.
    """
    check_16bit(base)
    difference = Adapter(adapter)
    destination.mkdir(parents=True)
    shards = weight_files(base)
    for number, shard in enumerate(shards, start=1):
        advanced(f"merging file {number} of {len(shards)}")
        save_file(_merged(shard, difference, precision), destination / shard.name, metadata={"format": "pt"})
    difference.check_all_used()
    for pattern in _NOT_WEIGHTS:
        for file in base.glob(pattern):
            shutil.copy(file, destination / file.name)
    config = json.loads((base / "config.json").read_text())
    if config.get("dtype", config.get("torch_dtype")) == "float32":
        config.pop("torch_dtype", None)
        (destination / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}, indent=2))


def _merged(shard: Path, adapter: Adapter, precision: Precision) -> dict[str, torch.Tensor]:
    merged: dict[str, torch.Tensor] = {}
    with safe_open(shard, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - not a dict
            tensor: torch.Tensor = tensors.get_tensor(name)
            if tensor.dtype not in _FLOATS:
                merged[name] = tensor
                continue
            half = torch.float16 if precision == "f16" else torch.bfloat16
            own = half if tensor.dtype is torch.float32 else tensor.dtype
            delta = adapter.delta(name)
            target = own if delta is None or precision == "base" else half
            merged[name] = (tensor if delta is None else tensor.float() + delta).to(target).contiguous()
            if (delta is not None or target is not tensor.dtype) and not bool(merged[name].isfinite().all()):
                raise JobFailed(f"{name}: not a number that {target} holds", code="not_finite")
    return merged


def check_16bit(base: Path) -> None:
    """Check that a base is not stored quantised: an adapter cannot be added to rounded weights.

    Raises:
        JobFailed: ``base_not_16bit``.
    """
    if "quantization_config" in json.loads((base / "config.json").read_text()):
        raise JobFailed(
            f"the trainer's {base.name} is a quantised copy; merging needs its 16-bit original"
            " (format lora-gguf does not)",
            code="base_not_16bit",
            param="format",
        )


def weight_files(base: Path) -> list[Path]:
    """Return the files that hold a base's weights, in order."""
    index = base / _INDEX
    if not index.exists():
        return [base / _SINGLE]
    return [base / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]


def parameter_count(base: Path) -> int:
    """Return how many numbers a base's weights are; reads the files' headers alone."""
    count = 0
    for shard in weight_files(base):
        with safe_open(shard, framework="pt") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count

"""Lets code written for CUDA run on a CPU: for the engines, where there is no GPU to try them on.

The Triton kernels run in Triton's interpreter, bitsandbytes' in its CPU backend; what asks torch for a
CUDA device gets the CPU. Everything else is the libraries' own code: unsloth's patched forward, loss,
checkpointing and training loop, its fused LoRA kernels, TRL's loss kernel. What this cannot show: CUDA's
memory, speed, streams, and numerics of tensor cores.
"""

import ctypes
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Self

# Before torch, triton and transformers are imported. Loading in threads would leave them without the
# redirection below, which is of the thread.
os.environ |= {
    "TRITON_INTERPRET": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "UNSLOTH_ALLOW_CPU": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DEACTIVATE_ASYNC_LOAD": "1",
}

import torch
import triton.language as tl
from torch.overrides import TorchFunctionMode
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from narrowcast_trainer import engines
from narrowcast_trainer.engines import completion, loop, models, precision

_MEMORY = 24 << 30


def interpret(capability: tuple[int, int]) -> None:
    """Make the engines take their CUDA branches, on a GPU of this compute capability."""
    _count_bf16_as_numbers()
    precision.capability = lambda: precision.Capability(cuda=capability, cpu_bf16=True)
    del completion._CheapOnCpu.compute_loss
    shared = loop.common_arguments
    # Nor does the CPU's branch take this one, which bitsandbytes has for a CPU as well.
    loop.common_arguments = lambda *given: shared(*given) | {"optim": "adamw_8bit"}


def import_unsloth(capability: tuple[int, int], *, gpus: int = 1, bitsandbytes_loads: bool = True) -> None:
    """Import unsloth as on a GPU of this compute capability.

    Args:
        capability: decides whether there is bf16.
        gpus: how many there are.
        bitsandbytes_loads: whether its native library does, or only its Python.
    """
    _land_on_the_cpu(capability, gpus)
    from bitsandbytes import functional

    if bitsandbytes_loads:
        functional.lib = _Symbols()
    kernels: Any = importlib.import_module("unsloth").kernels.utils
    sys.modules["unsloth.models._utils"].SUPPORTS_BFLOAT16 = capability >= (8, 0)  # type: ignore[attr-defined]
    _replace(kernels.fast_dequantize, _dequantize)
    engines._unsloth_lacks = lambda: None
    models.this_gpu = lambda: {"": "cpu"}  # type: ignore[dict-item, return-value]


def _dequantize(weight: Any, state: Any = None, out: Any = None, use_global_buffer: bool = False) -> Any:
    """What unsloth calls bitsandbytes' CUDA library for, by bitsandbytes' own CPU backend."""
    from bitsandbytes.functional import dequantize_4bit

    if state is None:
        return weight
    values = dequantize_4bit(weight, state)  # transposed if the weight is
    if out is not None:
        (out.t() if weight.shape[0] == 1 else out).copy_(values)
    return values


def _replace(old: Callable[..., Any], new: Callable[..., Any]) -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("unsloth") and vars(module).get(old.__name__) is old:
            setattr(module, old.__name__, new)


class _Symbols:
    """A library that has every symbol; unsloth looks at them when it is imported."""

    def __getattr__(self, name: str) -> Any:
        return ctypes.CFUNCTYPE(None)(lambda: None)


class _Nothing:
    """A stream, an event or a device's context, all of which a CPU has no use for."""

    cuda_stream = 0
    idx = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: Any) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


class _OnTheCpu(TorchFunctionMode):
    """Takes CUDA for the CPU wherever a function of torch is given a device."""

    def __torch_function__(
        self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, args, given = getattr(func, "__name__", ""), list(args), dict(kwargs or {})
        if name in {"cuda", "pin_memory"}:
            return args[0]
        if name == "to":
            args[1:] = [_cpu(value) for value in args[1:]]
        if "device" in given:
            given["device"] = _cpu(given["device"])
        if "pin_memory" in given:
            given["pin_memory"] = False
        return func(*args, **given)


def _cpu(device: Any) -> Any:
    """Return what to take for a device, or any other argument as it is."""
    cuda = isinstance(device, str | torch.device) and str(device).startswith("cuda")
    number = isinstance(device, int) and not isinstance(device, bool)
    return torch.device("cpu") if cuda or number else device


def _land_on_the_cpu(capability: tuple[int, int], gpus: int) -> None:
    properties = SimpleNamespace(
        name="interpreted",
        major=capability[0],
        minor=capability[1],
        total_memory=_MEMORY,
        multi_processor_count=8,
        warp_size=32,
        max_threads_per_multi_processor=1536,
        shared_memory_per_block_optin=99 << 10,
        gcnArchName="",
    )
    answers = {
        "get_device_properties": properties,
        "get_device_name": properties.name,
        "get_device_capability": capability,
        "mem_get_info": (_MEMORY, _MEMORY),
        "current_device": 0,
        "device_count": gpus,
        **dict.fromkeys(("memory_allocated", "max_memory_allocated"), 0),
        **dict.fromkeys(("memory_reserved", "max_memory_reserved"), 0),
        **dict.fromkeys(("empty_cache", "synchronize", "set_device", "reset_peak_memory_stats")),
        **dict.fromkeys(("current_stream", "default_stream", "stream"), _Nothing()),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    for name in ("Stream", "Event", "device"):
        setattr(torch.cuda, name, _Nothing)
    torch._C._cuda_getCurrentRawStream = lambda index: 0
    for name in ("custom_fwd", "custom_bwd"):
        setattr(torch.amp, name, _of_the_cpu(getattr(torch.amp, name)))
    for name in ("is_autocast_enabled", "get_autocast_dtype"):
        asked = getattr(torch, name)
        setattr(torch, name, lambda device_type="cpu", asked=asked: asked("cpu"))
    _OnTheCpu().__enter__()


def _of_the_cpu(decorator: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: decorator(*args, **kwargs | {"device_type": "cpu"})


def _count_bf16_as_numbers() -> None:
    """Make the interpreter compute in bf16, which it keeps as integers and would multiply as such."""
    binary, unary = InterpreterBuilder.binary_op, InterpreterBuilder.unary_op

    def wide(self: Any, value: TensorHandle) -> TensorHandle:
        return self.cast_impl(value, tl.float32) if value.dtype.scalar == tl.bfloat16 else value

    def narrow(self: Any, value: TensorHandle, like: TensorHandle) -> TensorHandle:
        was_bf16 = like.dtype.scalar == tl.bfloat16 and value.dtype.scalar == tl.float32
        return self.cast_impl(value, tl.bfloat16) if was_bf16 else value

    InterpreterBuilder.binary_op = lambda self, one, other, op: narrow(
        self, binary(self, wide(self, one), wide(self, other), op), one
    )
    InterpreterBuilder.unary_op = lambda self, one, op: narrow(self, unary(self, wide(self, one), op), one)

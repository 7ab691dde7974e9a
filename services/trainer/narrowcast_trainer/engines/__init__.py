"""The engines, by name. Only the chosen one's module is imported, and only in a training process."""

from importlib.util import find_spec

from narrowcast.errors import JobFailed
from narrowcast.estimates.shapes import Parallelism
from narrowcast.training import EngineName
from narrowcast_trainer.engines.base import Engine


def create_engine(name: EngineName, parallelism: Parallelism = "ddp") -> Engine:
    """Return the engine called ``name``; see :func:`engine_name`."""
    if engine_name(name, parallelism) == "unsloth":
        from narrowcast_trainer.engines.unsloth import UnslothEngine

        return UnslothEngine()
    from narrowcast_trainer.engines.peft import PeftEngine

    return PeftEngine()


def engine_name(name: EngineName, parallelism: Parallelism = "ddp") -> str:
    """Return which engine ``name`` means here; ``auto`` is the fastest one this node has.

    Args:
        name: as a job says it.
        parallelism: this node's; under ``fsdp`` there is only peft.

    Raises:
        JobFailed: ``engine_unavailable``, this node does not have it.
    """
    lacking = "parallelism set to fsdp" if parallelism == "fsdp" else _unsloth_lacks()
    if name == "unsloth" and lacking is not None:
        raise JobFailed(
            f"this node cannot train with the engine unsloth: it has {lacking}; use auto or peft",
            code="engine_unavailable",
            param="engine",
        )
    if name != "auto":
        return name
    return "peft" if lacking else "unsloth"


def _unsloth_lacks() -> str | None:
    if find_spec("unsloth") is None:
        return "no unsloth installed"
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"

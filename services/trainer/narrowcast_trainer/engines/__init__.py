"""The engines, by name. Only the chosen one's module is imported, and only in a training process.

To add one: a module with a function ``create() -> Engine`` (see :mod:`.base`), and a line here.
"""

import importlib
from importlib.util import find_spec

from narrowcast.errors import JobFailed
from narrowcast.training import EngineName
from narrowcast_trainer.engines.base import Engine

_MODULES = {"peft": "narrowcast_trainer.engines.peft"}


def create_engine(name: EngineName) -> Engine:
    """Return the engine called ``name``; ``auto`` is the fastest one this node has.

    Raises:
        JobFailed: this node does not have it.
    """
    chosen = _fastest() if name == "auto" else name
    if chosen not in _MODULES:
        raise JobFailed(
            f"this node cannot train with the engine {chosen}; use auto or one of: {', '.join(_MODULES)}",
            code="engine_unavailable",
            param="engine",
        )
    engine: Engine = importlib.import_module(_MODULES[chosen]).create()
    return engine


def _fastest() -> str:
    if "unsloth" in _MODULES and find_spec("unsloth") is not None:
        import torch

        if torch.cuda.is_available():
            return "unsloth"
    return "peft"

"""Lets ranks on a CPU train as ranks on GPUs do; every Python on whose path it is imports it.

The engines take a GPU's branches, of the compute capability in ``CUDA_CAPABILITY``: its precision, its
quantisation, activations recomputed. accelerate, which shards on GPUs only, shards. All else runs on a CPU
as it does on a GPU, over gloo instead of NCCL.
"""

import os
from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from narrowcast_trainer.engines import precision

_major, _minor = map(int, os.environ["CUDA_CAPABILITY"].split("."))
_init = AcceleratorState.__init__


def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    """Take the plugin that a CPU's state leaves out."""
    _init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self._shared_state.get("fsdp_plugin") is None:
        self.distributed_type = DistributedType.FSDP
        if self.mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self.mixed_precision)
        self.fsdp_plugin = fsdp_plugin


AcceleratorState.__init__ = init  # type: ignore[method-assign]
precision.capability = lambda: precision.Capability(cuda=(_major, _minor), cpu_bf16=True)

"""Makes accelerate shard on a CPU, where it only does on GPUs; every Python on whose path it is imports it.

All else of FSDP runs on a CPU as it does on a GPU, over gloo instead of NCCL.
"""

from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

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

"""Lets the ranks of a training share one GPU, for tests alone: Python imports it before anything else.

NCCL refuses two ranks of one host on one GPU. So each is told that it is alone on a host of its own; they
then talk over a socket, as ranks of several nodes do.
"""

import os

from narrowcast_trainer import ranks

os.environ["NCCL_HOSTID"] = f"host-{ranks.rank()}"
if ranks.rank() > 0:
    if "ACCELERATE_USE_FSDP" not in os.environ:
        os.environ["LOCAL_RANK"] = "0"  # accelerate gives it to DDP as the number of the GPU
    os.environ["UNSLOTH_COMPILE_LOCATION"] = f"unsloth-{ranks.rank()}"
ranks.join = lambda: None

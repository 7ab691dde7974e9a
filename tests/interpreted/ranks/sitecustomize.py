"""Lets the ranks that an interpreted training starts be interpreted as well; every Python here imports it."""

import json
import os
import sys
from pathlib import Path

if "narrowcast_trainer.rank" in sys.orig_argv:
    sys.path.append(str(Path(__file__).parent.parent))
    from cuda_on_cpu import import_unsloth, interpret

    seen = json.loads(os.environ["INTERPRETED"])
    import_unsloth(tuple(seen["capability"]), gpus=seen["gpus"])
    interpret(tuple(seen["capability"]))

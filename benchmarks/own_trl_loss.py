"""Our training process with TRL's own loss on a CPU as well. Started by ``training.py``.

What is left between it and a bare TRL script is our overhead alone, where the loss that ours computes on a
CPU makes up for it (:mod:`narrowcast_trainer.engines.completion`).
"""

import sys

from narrowcast_trainer.engines import completion
from narrowcast_trainer.run import main

if __name__ == "__main__":
    del completion._CheapOnCpu.compute_loss
    sys.exit(main())

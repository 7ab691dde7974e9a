"""What somebody without Narrowcast would write: TRL on rows of ours. Started by ``training.py``.

``python bare_trl.py ORDER``: a JSON object with ``base``, ``rows`` (a JSON Lines file of ``prompt`` and
``completion`` messages), ``arguments`` (of SFTConfig) and ``lora`` (of LoraConfig). The last line that
it prints has the steps and their seconds, the first step's beginning to the last one's end.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from datasets import load_dataset
from peft import LoraConfig
from transformers import TrainerCallback, set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer


class Clock(TrainerCallback):
    """Takes the time of the steps alone, as for ours: no loading, no saving."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0
        self.steps = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended, self.steps = time.monotonic(), state.global_step


def main() -> None:
    order = json.loads(sys.argv[1])
    arguments = SFTConfig(output_dir=str(Path(order["rows"]).parent / "bare"), **order["arguments"])
    set_seed(arguments.seed)
    clock = Clock()
    SFTTrainer(
        model=order["base"],
        args=arguments,
        train_dataset=load_dataset("json", data_files=order["rows"], split="train"),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **order["lora"]),
        callbacks=[clock],
    ).train()
    print(json.dumps({"steps": clock.steps, "seconds": clock.ended - clock.began}))


if __name__ == "__main__":
    main()

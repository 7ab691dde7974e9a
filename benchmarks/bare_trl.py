"""What somebody without Narrowcast would write: TRL on rows of ours. Started by ``training.py``.

``python bare_trl.py ORDER``: a JSON object with ``base``, ``rows`` (a JSON Lines file of ``prompt`` and
``completion`` messages), ``arguments`` (of SFTConfig), ``lora`` (of LoraConfig), ``nf4``, whether the base
is quantised, ``warm_up``, the steps that are not timed, and perhaps ``checkpoint_at``, the share of the steps
after which one checkpoint is written to the disk. The last line that it prints has ``steps``, those that were
``timed``, their ``seconds``, the ``checkpoints`` among them, and on CUDA ``peak_bytes``, of reserved memory.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import BitsAndBytesConfig, TrainerCallback, set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

_NF4 = BitsAndBytesConfig(  # type: ignore[no-untyped-call] # as QLoRA has it, and PEFT's guide
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)


class Clock(TrainerCallback):
    """Takes the time of the steps, as for ours: with what is saved between them, without loading."""

    def __init__(self, warm_up: int, checkpoint_at: float | None) -> None:
        self.began = self.ended = 0.0
        self.steps = self.checkpoints = 0
        self._warm_up = warm_up
        self._checkpoint_at = checkpoint_at

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = _now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps = state.global_step
        if self.steps == self._warm_up:
            self.began = _now()
        if self.steps == state.max_steps:
            self.ended = _now()
        elif self._checkpoint_at and self.steps == math.ceil(self._checkpoint_at * state.max_steps):
            control.should_save = True

    def on_save(self, *_: Any, **__: Any) -> None:
        self.checkpoints += self.steps >= self._warm_up


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a step ends when the GPU has done it, not when it was told to
    return time.monotonic()


def main() -> None:
    order = json.loads(sys.argv[1])
    given: dict[str, Any] = order["arguments"]
    if order["nf4"]:
        given["model_init_kwargs"] = given.get("model_init_kwargs", {}) | {"quantization_config": _NF4}
    arguments = SFTConfig(output_dir=str(Path(order["rows"]).parent / "bare"), **given)
    set_seed(arguments.seed)
    clock = Clock(order["warm_up"], order.get("checkpoint_at"))
    SFTTrainer(
        model=order["base"],
        args=arguments,
        train_dataset=load_dataset("json", data_files=order["rows"], split="train"),
        peft_config=LoraConfig(task_type="CAUSAL_LM", **order["lora"]),
        callbacks=[clock],
    ).train()
    timed = clock.steps - order["warm_up"]
    taken: dict[str, Any] = {
        "steps": clock.steps,
        "timed": timed,
        "seconds": clock.ended - clock.began,
        "checkpoints": clock.checkpoints,
    }
    if torch.cuda.is_available():
        taken["peak_bytes"] = torch.cuda.max_memory_reserved()
    print(json.dumps(taken))


if __name__ == "__main__":
    main()

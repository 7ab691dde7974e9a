"""One training on CUDA: ``python train_once.py ORDER RESULT``, started by the tests beside it."""

import json
import os
import shutil
import sys
import traceback
from pathlib import Path
from typing import Any

from narrowcast.datasets import Row
from narrowcast.errors import NarrowcastError
from narrowcast.prompts import instruction_for
from narrowcast.training import Hyperparameters
from narrowcast_trainer.checkpoints import Resumable
from narrowcast_trainer.data import pad_id, stop_ids, tokenize
from narrowcast_trainer.engines import create_engine
from narrowcast_trainer.engines.base import TrainingStopped, TrainingTask
from narrowcast_trainer.protocol import EVENT, Measured
from narrowcast_trainer.ranks import SeveralRanks
from narrowcast_trainer.reasons import reason_of
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.settings import TrainingSettings
from narrowcast_trainer.stop import StopSignal


class StopAtStep(StopSignal):
    """Requested once the callback has looked at so many steps."""

    def __init__(self, step: int) -> None:
        self._left = step
        super().__init__()

    @property
    def requested(self) -> bool:
        self._left -= 1
        return self._left <= 0

    @requested.setter
    def requested(self, _: bool) -> None: ...


def rows(count: int, start: int = 0) -> list[Row]:
    return [
        Row(
            instruction=instruction_for("МРТ коленного сустава"),
            input=f"Разрыв мениска, случай {number}.",
            output="Мениск повышенной интенсивности. " * (1 + number % 5) + f"Размер {number} мм.",
        )
        for number in range(start, start + count)
    ]


def train(order: dict[str, Any]) -> dict[str, Any]:
    ranks, parallelism = order.get("ranks", 1), order.get("parallelism", "ddp")
    if ranks > 1:
        # unsloth sees one GPU where ranks share it, and switches ranks off unless it hears of them now.
        os.environ["WORLD_SIZE"] = str(ranks)
    # Before Transformers, which unsloth patches.
    engine = create_engine(order["engine"], parallelism)
    if ranks > 1:
        engine = SeveralRanks(engine, ranks, job_id="ftjob-0", log_level="INFO")
    import torch
    from transformers import AutoTokenizer

    if "memory_bytes" in order:
        _, card = torch.cuda.mem_get_info()
        torch.cuda.set_per_process_memory_fraction(order["memory_bytes"] / card)
    base, scratch = Path(order["base"]), Path(order["scratch"])
    scratch.mkdir(parents=True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    stops = stop_ids(tokenizer, None)
    limits: dict[str, Any] = {"max_length": 1024, "stop_ids": stops}
    events = scratch / "events"

    def keep(folder: Path, step: int, seconds: float) -> None:
        shutil.copytree(folder, scratch / "checkpoint")

    resume = order.get("resume")
    task = TrainingTask(
        base=base,
        hyperparameters=Hyperparameters.model_validate(
            {"n_epochs": 2, "batch_size": 4, "rank": 16, "learning_rate": 1e-3} | order.get("hyper", {})
        ),
        settings=TrainingSettings(
            checkpoint_every_s=1e6,
            micro_batch_tokens=order.get("tokens", 1024),
            nproc_per_node=ranks,
            parallelism=parallelism,
        ),
        train=tokenize(rows(order.get("rows", 32)), tokenizer, split="train", **limits),
        validation=tokenize(rows(4, 500), tokenizer, split="validation", **limits),
        pad_id=pad_id(tokenizer, stops),
        scratch=scratch / "trainer",
        resume=Resumable(folder=Path(resume), step=order["step"], seconds=1.0) if resume else None,
        reporter=Reporter(os.open(events, os.O_WRONLY | os.O_CREAT)),
        stop=StopAtStep(order["stop_at"]) if "stop_at" in order else StopSignal(),
        save_checkpoint=keep,
    )
    try:
        trained = engine.train(task)
    except TrainingStopped as stopped:
        return {"stopped": stopped.step, "checkpoint": str(scratch / "checkpoint")}
    engine.smoke_test(task, trained.adapter)
    sent = map(EVENT.validate_json, events.read_text().splitlines())
    return {
        "engine": engine.name,
        "metrics": trained.metrics,
        "adapter": str(trained.adapter),
        # Of every step; events are sent once a second.
        "losses": [point.train_loss for point in trained.record.points if point.train_loss is not None],
        "gpu_memory": [event.metrics.gpu_memory_bytes for event in sent if isinstance(event, Measured)],
    }


if __name__ == "__main__":
    try:
        answer = train(json.loads(sys.argv[1]))
    except NarrowcastError as error:
        answer = {"failed": error.code, "message": error.message}
    except Exception as error:  # noqa: BLE001 - the test judges it
        answer = {
            "failed": reason_of(error, Path(sys.argv[2]).parent).code,
            "message": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
        }
    Path(sys.argv[2]).write_text(json.dumps(answer))

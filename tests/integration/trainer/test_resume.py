"""A run that was stopped and resumed ends with the very weights of one that was not."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from narrowcast.training import Hyperparameters
from narrowcast_trainer.card.record import RunRecord
from narrowcast_trainer.checkpoints import Resumable
from narrowcast_trainer.data import stop_ids, tokenize
from narrowcast_trainer.engines.base import TrainingStopped, TrainingTask
from narrowcast_trainer.protocol import EVENT, Measured
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.settings import TrainingSettings
from narrowcast_trainer.stop import StopSignal

from .conftest import TOY, rows

HYPER = Hyperparameters(
    n_epochs=2, batch_size=4, rank=4, alpha=8, dropout=0.1, learning_rate=1e-2, engine="peft"
)


class StopAtStep(StopSignal):
    """Requested when it is looked at for the ``step``-th time: the callback looks once a step."""

    def __init__(self, step: int) -> None:
        self._left = step
        super().__init__()

    @property
    def requested(self) -> bool:
        self._left -= 1
        return self._left <= 0

    @requested.setter
    def requested(self, _: bool) -> None: ...


def _task(base: Path, scratch: Path, events: Path, **changes: Any) -> TrainingTask:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    limits: dict[str, Any] = {"max_length": 2048, "stop_ids": stop_ids(tokenizer, None)}
    descriptor = os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    values: dict[str, Any] = {
        "base": base,
        "hyperparameters": HYPER,
        "settings": TrainingSettings(checkpoint_every_s=1e6, micro_batch_tokens=300),
        "train": tokenize(rows(14), tokenizer, split="train", **limits),
        "validation": tokenize(rows(3, 50), tokenizer, split="validation", **limits),
        "pad_id": 0,
        "scratch": scratch,
        "resume": None,
        "reporter": Reporter(descriptor),
        "stop": StopSignal(),
        "save_checkpoint": lambda *_: None,
    }
    return TrainingTask(**(values | changes))


def _adapter(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.filterwarnings("ignore")
def test_stopped_and_resumed_is_bit_for_bit_the_same(models_dir: Path, tmp_path: Path) -> None:
    import torch

    from narrowcast_trainer.engines.peft import PeftEngine

    base = models_dir / TOY
    whole = PeftEngine().train(_task(base, tmp_path / "whole", tmp_path / "whole.events"))
    assert whole.metrics["steps"] == 8

    saved: list[Resumable] = []

    def keep(folder: Path, step: int, seconds: float) -> None:
        shutil.copytree(folder, tmp_path / "checkpoint")
        saved.append(Resumable(folder=tmp_path / "checkpoint", step=step, seconds=seconds))

    stop = StopAtStep(3)
    task = _task(base, tmp_path / "first", tmp_path / "first.events", stop=stop, save_checkpoint=keep)
    with pytest.raises(TrainingStopped) as stopped:
        PeftEngine().train(task)
    assert stopped.value.step == 3
    assert saved[0].step == 3
    # Stopping costs no validation.
    assert not [event for event in _measured(tmp_path / "first.events") if event.metrics.valid_loss]

    rest = _task(base, tmp_path / "rest", tmp_path / "rest.events", resume=saved[0])
    resumed = PeftEngine().train(rest)
    assert resumed.metrics["seconds"] > saved[0].seconds
    assert not saved[0].folder.exists(), "the disk is to hold one checkpoint, not two"
    expected, got = _adapter(whole.adapter), _adapter(resumed.adapter)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert any(bool(tensor.any()) for name, tensor in got.items() if ".lora_B." in name)
    for name in ("train_loss", "valid_loss"):
        assert whole.metrics[name] == pytest.approx(resumed.metrics[name], abs=1e-9)
    assert min(event.metrics.step for event in _measured(tmp_path / "rest.events")) > 3
    _same_curve(whole.record, resumed.record)


def _same_curve(whole: RunRecord, resumed: RunRecord) -> None:
    """The training card of a run that was interrupted shows all of it."""
    assert [point.step for point in resumed.points] == list(range(1, 9))
    timed = {"tokens_per_s", "memory_bytes"}
    assert [point.model_dump(exclude=timed) for point in resumed.points] == [
        point.model_dump(exclude=timed) for point in whole.points
    ]
    assert all(point.tokens_per_s and point.memory_bytes for point in resumed.points)
    assert [attempt.first_step for attempt in resumed.attempts] == [1, 4]
    assert all(attempt.seconds > 0 for attempt in resumed.attempts)
    assert whole.tokens == resumed.tokens


def _measured(events: Path) -> list[Measured]:
    parsed = [EVENT.validate_json(line) for line in events.read_bytes().splitlines()]
    return [event for event in parsed if isinstance(event, Measured)]

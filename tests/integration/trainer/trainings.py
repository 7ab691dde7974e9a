"""Trainings of the toy base in this process: whole, or stopped and resumed."""

import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import pytest

from narrowcast.training import Hyperparameters
from narrowcast_trainer.checkpoints import Resumable
from narrowcast_trainer.data import stop_ids, tokenize
from narrowcast_trainer.engines.base import Trained, TrainingStopped, TrainingTask
from narrowcast_trainer.protocol import EVENT
from narrowcast_trainer.ranks import SeveralRanks
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.settings import TrainingSettings
from narrowcast_trainer.stop import StopSignal

from .conftest import TOY, rows

HYPER = Hyperparameters(
    n_epochs=2, batch_size=4, rank=4, alpha=8, dropout=0.1, learning_rate=1e-2, engine="peft"
)
# Dropout draws other numbers where the rows are dealt out otherwise.
UNDROPPED = HYPER.model_copy(update={"dropout": 0.0})
Kind = TypeVar("Kind")


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


class Kept(list[Resumable]):
    """The checkpoints that a training leaves, in a folder each; its ``save_checkpoint``."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __call__(self, written: Path, step: int, seconds: float) -> None:
        folder = shutil.copytree(written, self._folder / f"checkpoint-{step}")
        self.append(Resumable(folder=folder, step=step, seconds=seconds))


def training_task(models_dir: Path, folder: Path, **changes: Any) -> TrainingTask:
    """Return a training in ``folder``, where its events go as well."""
    from transformers import AutoTokenizer

    folder.mkdir(exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(models_dir / TOY)
    limits: dict[str, Any] = {"max_length": 2048, "stop_ids": stop_ids(tokenizer, None)}
    descriptor = os.open(folder / "events", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    values: dict[str, Any] = {
        "base": models_dir / TOY,
        "hyperparameters": HYPER,
        "settings": TrainingSettings(checkpoint_every_s=1e6, micro_batch_tokens=300),
        "train": tokenize(rows(14), tokenizer, split="train", **limits),
        "validation": tokenize(rows(3, 50), tokenizer, split="validation", **limits),
        "pad_id": 0,
        "scratch": folder / "run",
        "resume": None,
        "reporter": Reporter(descriptor),
        "stop": StopSignal(),
        "save_checkpoint": lambda *_: None,
    }
    return TrainingTask(**(values | changes))


def train(models_dir: Path, folder: Path, **changes: Any) -> Trained:
    """Train by the peft engine, on as many ranks as the settings say."""
    from narrowcast_trainer.engines.peft import PeftEngine

    task = training_task(models_dir, folder, **changes)
    if (ranks := task.settings.nproc_per_node) > 1:
        return SeveralRanks(PeftEngine(), ranks, job_id="ftjob-0", log_level="INFO").train(task)
    return PeftEngine().train(task)


def stopped(step: int, models_dir: Path, folder: Path, **changes: Any) -> Resumable:
    """Stop a training after a step; return the checkpoint that it leaves."""
    kept = Kept(folder)
    with pytest.raises(TrainingStopped) as stop:
        train(models_dir, folder, stop=StopAtStep(step), save_checkpoint=kept, **changes)
    (checkpoint,) = kept
    assert (stop.value.step, checkpoint.step) == (step, step), (stop.value.step, checkpoint.step)
    return checkpoint


def events_of(folder: Path, kind: type[Kind]) -> list[Kind]:
    """Return what trainings in a folder have said, of one kind."""
    parsed = [EVENT.validate_json(line) for line in (folder / "events").read_bytes().splitlines()]
    return [event for event in parsed if isinstance(event, kind)]


def losses_of(trained: Trained) -> list[float | None]:
    return [point.train_loss for point in trained.record.points]


def weights_of(adapter: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(adapter / "adapter_model.safetensors")


def norms_of(trained: Trained) -> list[float]:
    """Every step's gradient norm."""
    return [point.grad_norm for point in trained.record.points if point.grad_norm is not None]


def assert_same_weights(one: Path, other: Path) -> None:
    """Two adapters, to the bit."""
    import torch

    expected, got = weights_of(one), weights_of(other)
    assert expected.keys() == got.keys(), expected.keys() ^ got.keys()
    apart = [name for name in expected if not torch.equal(expected[name], got[name])]
    assert not apart, apart

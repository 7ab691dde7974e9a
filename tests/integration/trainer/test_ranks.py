"""A training on two ranks is the one on one rank: same rows a step, same losses, same adapter."""

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.training import Hyperparameters
from narrowcast_trainer.checkpoints import Resumable
from narrowcast_trainer.engines.base import Engine, Trained, TrainingStopped, TrainingTask
from narrowcast_trainer.ranks import SeveralRanks
from narrowcast_trainer.settings import Parallelism, TrainingSettings

from .conftest import TOY
from .test_resume import HYPER, StopAtStep, _adapter, _measured, _task

pytestmark = pytest.mark.filterwarnings("ignore")
RANKS = 2
# Dropout draws other numbers where the rows are dealt out otherwise.
SAME = Hyperparameters.model_validate(HYPER.model_dump() | {"dropout": 0.0})


def _engine() -> Engine:
    from narrowcast_trainer.engines.peft import PeftEngine

    return PeftEngine()


def _of_two(engine: Engine) -> SeveralRanks:
    return SeveralRanks(engine, RANKS, job_id="ftjob-0", log_level="INFO")


def _settings(parallelism: Parallelism = "ddp", **changes: Any) -> TrainingSettings:
    values = {"checkpoint_every_s": 1e6, "micro_batch_tokens": 300, "parallelism": parallelism} | changes
    return TrainingSettings.model_validate(values | {"nproc_per_node": RANKS})


def _run(
    engine: Engine, models_dir: Path, folder: Path, **changes: Any
) -> tuple[Trained, list[float], list[float]]:
    """Train; return what was trained, and the losses of the steps and of the validations."""
    task = _task(models_dir / TOY, folder / "run", folder / "events", **changes)
    trained = engine.train(task)
    history = trained.record.points
    return (
        trained,
        [point.train_loss for point in history if point.train_loss is not None],
        [point.valid_loss for point in history if point.valid_loss is not None],
    )


@pytest.fixture(scope="module")
def alone(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    folder = tmp_path_factory.mktemp("alone")
    return _run(_engine(), models_dir, folder, hyperparameters=SAME, settings=_settings())


@pytest.mark.parametrize("parallelism", ["ddp"])
def test_two_ranks_train_as_one(
    models_dir: Path, tmp_path: Path, alone: tuple[Any, ...], parallelism: Parallelism
) -> None:
    """14 rows in batches of 4: the last batch of an epoch is short, and so is the validation's."""
    settings = _settings(parallelism)
    got = _run(_of_two(_engine()), models_dir, tmp_path, hyperparameters=SAME, settings=settings)
    (trained, losses, validations), (expected, expected_losses, expected_validations) = got, alone
    assert trained.metrics["steps"] == expected.metrics["steps"] == 8
    assert losses == pytest.approx(expected_losses, abs=2e-3)
    assert validations == pytest.approx(expected_validations, abs=2e-3)
    weights, expected_weights = _adapter(trained.adapter), _adapter(expected.adapter)
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in expected_weights.items()
    }
    for name, tensor in weights.items():
        assert float((tensor - expected_weights[name]).abs().max()) < 5e-3, name
    tokens = [point.tokens for point in trained.record.points]
    assert tokens == [point.tokens for point in expected.record.points], "of all ranks, without fillers"
    assert trained.record.attempts[0].devices == RANKS
    assert "RANK" not in os.environ
    task = _task(models_dir / TOY, tmp_path / "again", tmp_path / "events", settings=settings)
    _engine().smoke_test(task, trained.adapter)

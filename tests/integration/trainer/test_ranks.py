"""A training on two ranks is the one on one rank: same rows a step, same losses, same adapter."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narrowcast.errors import JobFailed
from narrowcast.jobs.records import JobStatus
from narrowcast.training import Hyperparameters
from narrowcast_trainer.checkpoints import Resumable
from narrowcast_trainer.engines.base import Trained, TrainingStopped
from narrowcast_trainer.ranks import SeveralRanks
from narrowcast_trainer.settings import TrainerSettings, TrainingSettings
from narrowcast_trainer.sweep import Sweep

from .conftest import REAL, TOY, Desk, Worker, rows
from .test_resume import HYPER, StopAtStep, _adapter, _task

pytestmark = pytest.mark.filterwarnings("ignore")
# Dropout draws other numbers where the rows are dealt out otherwise.
SAME = Hyperparameters.model_validate(HYPER.model_dump() | {"dropout": 0.0})
TWO = TrainingSettings(checkpoint_every_s=1e6, micro_batch_tokens=300, nproc_per_node=2)


def _train(models_dir: Path, folder: Path, **changes: Any) -> Trained:
    from narrowcast_trainer.engines.peft import PeftEngine

    folder.mkdir(exist_ok=True)
    task = _task(models_dir / TOY, folder / "run", folder / "events", **{"hyperparameters": SAME} | changes)
    engine = PeftEngine()
    if task.settings is TWO:
        return SeveralRanks(engine, 2, job_id="ftjob-0", log_level="INFO").train(task)
    return engine.train(task)


def _losses(trained: Trained) -> list[float | None]:
    return [point.train_loss for point in trained.record.points]


def _validations(trained: Trained) -> list[float]:
    return [point.valid_loss for point in trained.record.points if point.valid_loss is not None]


def _train_as_one(models_dir: Path, tmp_path: Path, adapters_apart: float) -> None:
    one = _train(models_dir, tmp_path / "one")
    two = _train(models_dir, tmp_path / "two", settings=TWO)
    assert two.metrics["steps"] == one.metrics["steps"] == 8
    assert _losses(two) == pytest.approx(_losses(one), abs=1e-3)
    assert _validations(two) == pytest.approx(_validations(one), abs=1e-3)
    expected, got = _adapter(one.adapter), _adapter(two.adapter)
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        assert float((tensor - expected[name]).abs().max()) < adapters_apart, name
    tokens = [point.tokens for point in two.record.points]
    assert tokens == [point.tokens for point in one.record.points], "of all ranks, without fillers"
    assert two.record.attempts[0].devices == 2
    assert "RANK" not in os.environ, "a process on its own again"


def test_two_ranks_train_as_one(models_dir: Path, tmp_path: Path) -> None:
    """14 rows in batches of 4: the last batch of an epoch is short, and so is the validation's."""
    _train_as_one(models_dir, tmp_path, 5e-3)


@pytest.mark.faults
@pytest.mark.usefixtures("on_gpus")
def test_two_gpus_train_as_one(models_dir: Path, tmp_path: Path) -> None:
    """NF4 and 16 bits, which round: a hundredth of weights that have moved by a tenth."""
    _train_as_one(models_dir, tmp_path, 2e-2)


def test_ranks_that_do_not_join_are_refused(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    # As unsloth does where it sees one GPU; the other rank joins.
    monkeypatch.setattr(PartialState, "_prepare_backend", lambda *_, **__: (None, DistributedType.NO))
    with pytest.raises(JobFailed) as failed:
        _train(models_dir, tmp_path, settings=TWO)
    assert failed.value.code == "ranks_apart"


def _resume(models_dir: Path, tmp_path: Path) -> None:
    import torch

    whole = _train(models_dir, tmp_path / "whole", hyperparameters=HYPER, settings=TWO)
    saved: list[Resumable] = []

    def keep(folder: Path, step: int, seconds: float) -> None:
        shutil.copytree(folder, tmp_path / "checkpoint")
        saved.append(Resumable(folder=tmp_path / "checkpoint", step=step, seconds=seconds))

    changes: dict[str, Any] = {"hyperparameters": HYPER, "settings": TWO}
    with pytest.raises(TrainingStopped) as stopped:
        _train(models_dir, tmp_path / "first", stop=StopAtStep(6), save_checkpoint=keep, **changes)
    assert stopped.value.step == 6, "in the second epoch, whose order is its own"
    kept = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= kept, "each rank has its own dropout"
    resumed = _train(models_dir, tmp_path / "rest", resume=saved[0], **changes)
    assert _losses(resumed) == _losses(whole)
    expected, got = _adapter(whole.adapter), _adapter(resumed.adapter)
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.faults
def test_stopped_and_resumed_it_is_the_run_that_was_not(models_dir: Path, tmp_path: Path) -> None:
    _resume(models_dir, tmp_path)


@pytest.mark.faults
@pytest.mark.usefixtures("on_gpus")
def test_stopped_and_resumed_on_gpus_it_is_the_run_that_was_not(models_dir: Path, tmp_path: Path) -> None:
    _resume(models_dir, tmp_path)


@pytest.mark.faults
def test_a_sweep_on_two_ranks_is_the_one_on_one(models_dir: Path, tmp_path: Path) -> None:
    """Trial after trial the ranks begin anew."""
    from narrowcast_trainer.engines.peft import PeftEngine

    sweep = {"n_trials": 3, "n_epochs": 2, "sweep": {"learning_rate": [1e-6, 1e-2]}}
    hyper = Hyperparameters.model_validate(SAME.model_dump() | sweep)
    trials = []
    for name, engine in (
        ("one", PeftEngine()),
        ("two", SeveralRanks(PeftEngine(), 2, job_id="ftjob-0", log_level="INFO")),
    ):
        folder = tmp_path / name
        folder.mkdir()
        task = _task(models_dir / TOY, folder / "run", folder / "events", hyperparameters=hyper, settings=TWO)
        trials.append(Sweep(engine, task).run().trials)
    for one, two in zip(*trials, strict=True):
        assert (two.state, two.hyperparameters) == (one.state, one.hyperparameters)
        assert two.valid_losses == pytest.approx(one.valid_losses, abs=1e-3)


def _other_ranks(worker: Worker) -> list[int]:
    (rank_0,) = worker.training_pids()[-1:]
    children = Path(f"/proc/{rank_0}/task/{rank_0}/children").read_text().split()
    return [pid for pid in map(int, children) if b"narrowcast_trainer.rank" in _command(pid)]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.faults
def test_a_rank_that_is_killed_costs_what_a_training_process_does(
    desk: Desk, start_worker: Callable[..., Worker], trainer_settings: TrainerSettings
) -> None:
    """From the first job's request to its adapter; no process of it is left."""
    trainer_settings.trainer.nproc_per_node = 2
    trainer_settings.trainer.threads = 2
    hyper = {"n_epochs": 40, "batch_size": 4, "early_stopping_patience": 0}
    left_alone = desk.submit(desk.dataset(rows(16), rows(3, 50)), hyper=hyper)
    killed = desk.submit(desk.dataset(rows(16), rows(3, 50)), hyper=hyper)
    worker = start_worker()
    whole = desk.ended(left_alone.id)
    assert whole.status is JobStatus.SUCCEEDED, whole.error
    desk.wait_for_event(killed.id, "checkpoint at step")
    (rank,) = _other_ranks(worker)
    os.kill(rank, signal.SIGKILL)
    ended = desk.ended(killed.id)
    assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 2), ended.error
    assert any("resumed after step" in message for message in desk.events(killed.id))
    for name in ("train_loss", "valid_loss", "best_step", "steps"):
        assert ended.result["metrics"][name] == pytest.approx(whole.result["metrics"][name], abs=1e-6), name
    assert not Path(f"/proc/{rank}").exists()


@pytest.mark.faults
@pytest.mark.usefixtures("real_base")
def test_a_job_that_no_two_ranks_share_trains_on_one(
    desk: Desk, start_worker: Callable[..., Worker], trainer_settings: TrainerSettings
) -> None:
    trainer_settings.trainer.nproc_per_node = 2
    job = desk.submit(desk.dataset(rows(6)), hyper={"batch_size": 3, "n_epochs": 1})
    diverging = desk.submit(
        desk.dataset(rows(4)),
        base=REAL,
        hyper={"learning_rate": 0.99, "learning_rate_multiplier": 100.0, "n_epochs": 10},
    )
    start_worker()
    assert desk.ended(job.id).status is JobStatus.SUCCEEDED
    assert "training on 1 of 2 GPUs, which share a batch_size evenly" in desk.events(job.id)
    ended = desk.ended(diverging.id)
    assert ended.error is not None
    assert (ended.error.code, ended.attempt) == ("training_diverged", 1)

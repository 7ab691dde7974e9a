"""A training on two ranks is the one on one rank: same rows a step, same losses, same adapter."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from narrowcast.errors import JobFailed
from narrowcast.jobs.records import JobStatus
from narrowcast.training import Hyperparameters
from narrowcast_trainer.engines.base import Trained
from narrowcast_trainer.ranks import SeveralRanks
from narrowcast_trainer.settings import TrainerSettings, TrainingSettings
from narrowcast_trainer.sweep import Sweep

from .conftest import REAL, Desk, Worker, rows
from .trainings import (
    UNDROPPED,
    assert_same_weights,
    losses_of,
    norms_of,
    stopped,
    train,
    training_task,
    weights_of,
)

pytestmark = pytest.mark.filterwarnings("ignore")
TWO = TrainingSettings(checkpoint_every_s=1e6, micro_batch_tokens=300, nproc_per_node=2)


def _validations(trained: Trained) -> list[float]:
    return [point.valid_loss for point in trained.record.points if point.valid_loss is not None]


def _train_as_one(models_dir: Path, tmp_path: Path, adapters_apart: float) -> None:
    one = train(models_dir, tmp_path / "one", hyperparameters=UNDROPPED)
    two = train(models_dir, tmp_path / "two", hyperparameters=UNDROPPED, settings=TWO)
    assert two.metrics["steps"] == one.metrics["steps"] == 8
    assert losses_of(two) == pytest.approx(losses_of(one), abs=1e-3)
    assert norms_of(two) == pytest.approx(norms_of(one), rel=0.05)
    assert _validations(two) == pytest.approx(_validations(one), abs=1e-3)
    expected, got = weights_of(one.adapter), weights_of(two.adapter)
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
    """NF4 and 16 bits, which round, and Adam makes much of a gradient near zero: of weights around 0.1."""
    _train_as_one(models_dir, tmp_path, 5e-2)


def test_ranks_that_do_not_join_are_refused(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    # As unsloth does where it sees one GPU; the other rank joins.
    monkeypatch.setattr(PartialState, "_prepare_backend", lambda *_, **__: (None, DistributedType.NO))
    with pytest.raises(JobFailed) as failed:
        train(models_dir, tmp_path, settings=TWO)
    assert failed.value.code == "ranks_apart"


def _resume(models_dir: Path, tmp_path: Path) -> None:
    whole = train(models_dir, tmp_path / "whole", settings=TWO)
    # In the second epoch, whose order is its own.
    checkpoint = stopped(6, models_dir, tmp_path / "first", settings=TWO)
    kept = {path.name for path in checkpoint.folder.iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= kept, "each rank has its own dropout"
    resumed = train(models_dir, tmp_path / "rest", resume=checkpoint, settings=TWO)
    assert losses_of(resumed) == losses_of(whole)
    assert_same_weights(whole.adapter, resumed.adapter)


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
    hyper = Hyperparameters.model_validate(UNDROPPED.model_dump() | sweep)
    trials = []
    for name, engine in (
        ("one", PeftEngine()),
        ("two", SeveralRanks(PeftEngine(), 2, job_id="ftjob-0", log_level="INFO")),
    ):
        task = training_task(models_dir, tmp_path / name, hyperparameters=hyper, settings=TWO)
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

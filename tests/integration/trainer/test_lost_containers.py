"""Memory that runs out for a whole container: the worker dies with its training, and nobody says why."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from narrowcast.training import Hyperparameters
from narrowcast_trainer.card.record import RunRecord
from narrowcast_trainer.checkpoints import Checkpoints, Resumable
from narrowcast_trainer.protocol import Note
from narrowcast_trainer.run import _losses_since, _with_fewer_rows
from narrowcast_trainer.settings import TrainerSettings, TrainingSettings
from narrowcast_trainer.sweep import SweepState

from .conftest import Desk, Worker, order_of, rows
from .trainings import HYPER, events_of, training_task


@pytest.mark.usefixtures("reaper")
def test_who_died_with_its_worker_where_it_began_goes_on_with_half_the_rows(
    desk: Desk, start_worker: Callable[[], Worker], tmp_path: Path
) -> None:
    """SIGKILL for all of its processes at once, as of the kernel under ``memory.oom.group``."""
    job = desk.submit(desk.dataset(rows(16)), hyper={"n_epochs": 40, "batch_size": 4})

    def said(start: str) -> list[str]:
        return [message for message in desk.events(job.id) if message.startswith(start)]

    worker = start_worker()
    desk.wait(job.id, lambda _: len(said("training 160 steps")) == 1)
    worker.kill_group()
    assert said("checkpoint at step") == [], "too late to tell anything"

    worker = start_worker()
    desk.wait(job.id, lambda _: said("checkpoint at step") != [])
    worker.kill_group()
    fewer = [
        "the worker was lost before it made a checkpoint: trying again with 2 rows at once,"
        " in case memory ran out; batch_size stays what it was"
    ]
    assert said("the worker was lost before") == fewer
    own = Checkpoints(desk.connections.storage.models, desk.tenant, job.id, keep=2)
    resume = own.fetch_newest(tmp_path / "newest")
    assert resume is not None
    assert RunRecord.read(resume.folder).attempts[-1].micro_batch == 2

    start_worker()
    desk.wait(job.id, lambda _: said("training 160 steps, resumed") != [])
    assert said("the worker was lost before") == fewer, "this time it had come further"
    desk.connections.jobs.request_cancel(job.id)
    desk.ended(job.id)


def test_only_losses_since_the_newest_checkpoint_count(
    desk: Desk, trainer_settings: TrainerSettings, tmp_path: Path
) -> None:
    order, storage = order_of(desk.running(), trainer_settings), desk.connections.storage
    now = time.time()
    lost = order.model_copy(update={"lost_attempts": (now - 60, now + 60, now + 120)})
    assert _losses_since(order, storage, None) == 0
    assert _losses_since(lost, storage, None) == 3
    (tmp_path / "file").write_text("")
    Checkpoints(storage.models, desk.tenant, order.job_id, keep=2).save(tmp_path, 7, 1.0)
    resume = Resumable(folder=tmp_path, step=7, seconds=1.0)
    assert _losses_since(lost, storage, resume) == 2, "the first one has made it"
    assert _losses_since(lost.model_copy(update={"max_micro_batch": 2}), storage, resume) == 0


@pytest.mark.parametrize(("losses", "fewer", "notes"), [(0, None, 0), (1, 2, 1), (2, 1, 1), (9, 1, 1)])
def test_each_loss_halves_the_rows(
    models_dir: Path, tmp_path: Path, losses: int, fewer: int | None, notes: int
) -> None:
    settings = TrainingSettings(micro_batch_tokens=1500)
    task = training_task(models_dir, tmp_path, settings=settings)
    assert _with_fewer_rows(task, losses).max_micro_batch == fewer
    assert len(events_of(tmp_path, Note)) == notes


def test_one_row_at_once_is_not_halved(models_dir: Path, tmp_path: Path) -> None:
    task = training_task(models_dir, tmp_path, max_micro_batch=1)
    assert _with_fewer_rows(task, 1) is task
    assert events_of(tmp_path, Note) == []


def test_of_several_ranks_each_one_s_rows_are_halved(models_dir: Path, tmp_path: Path) -> None:
    settings = TrainingSettings(micro_batch_tokens=1500, nproc_per_node=2)
    task = training_task(models_dir, tmp_path, settings=settings)
    assert _with_fewer_rows(task, 1).max_micro_batch == 1


def test_of_a_sweep_the_rows_of_the_trial_that_ran_are_halved(models_dir: Path, tmp_path: Path) -> None:
    """It had fewer at once by then than the job's own ``batch_size`` would give."""
    settings = TrainingSettings(micro_batch_tokens=100_000)
    hyper = HYPER.model_dump() | {"batch_size": 16, "n_trials": 3, "sweep": {"batch_size": [8, 16]}}

    def most(state: SweepState | None) -> int | None:
        resume = None
        if state is not None:
            kept = tmp_path / "kept" / "sweep"
            kept.mkdir(parents=True, exist_ok=True)
            (kept / "sweep.json").write_text(state.model_dump_json())
            resume = Resumable(folder=tmp_path, step=7, seconds=1.0)
        task = training_task(
            models_dir,
            tmp_path,
            settings=settings,
            hyperparameters=Hyperparameters.model_validate(hyper),
            resume=resume,
        )
        return _with_fewer_rows(task, 1).max_micro_batch

    assert most(None) == 8
    assert most(SweepState(running={"batch_size": 8})) == 4
    assert most(SweepState(running={"batch_size": 8}, max_micro_batch=4)) == 2

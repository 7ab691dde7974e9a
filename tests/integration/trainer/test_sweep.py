"""Sweeps on the toy base: the best is published, and an interrupted one ends as if it had not been."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narrowcast.adapters import AdapterManifest, adapter_prefix
from narrowcast.artifacts import read_manifest
from narrowcast.errors import JobFailed
from narrowcast.jobs.records import JobStatus
from narrowcast.sweeps import Trial
from narrowcast.training import Hyperparameters
from narrowcast_trainer.checkpoints import Resumable
from narrowcast_trainer.engines.base import Trained, TrainingStopped, TrainingTask
from narrowcast_trainer.protocol import Measured, Note
from narrowcast_trainer.settings import TrainingSettings
from narrowcast_trainer.sweep import Sweep, SweepState, best_so_far, of_running_trial

from .conftest import Desk, Worker, rows
from .trainings import HYPER, Kept, StopAtStep, assert_same_weights, events_of, training_task, weights_of

pytestmark = pytest.mark.filterwarnings("ignore")
SWEEP: dict[str, Any] = {
    "n_trials": 6,
    "n_epochs": 2,
    "learning_rate": 1e-2,
    "sweep": {"learning_rate": [1e-5, 1e-2], "rank": [2, 4], "dropout": [0, 0.2]},
}
SWEPT = Hyperparameters.model_validate(HYPER.model_dump() | SWEEP)


def _run(models_dir: Path, folder: Path, **changes: Any) -> Trained:
    from narrowcast_trainer.engines.peft import PeftEngine

    task = training_task(models_dir, folder, **{"hyperparameters": SWEPT} | changes)
    return Sweep(PeftEngine(), task).run()


@pytest.fixture(scope="module")
def whole(
    models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trained, Path, list[Resumable]]:
    """An uninterrupted sweep and all its checkpoints, as often as they can be."""
    folder = tmp_path_factory.mktemp("whole")
    kept = Kept(folder)
    often = TrainingSettings(checkpoint_every_s=1e-9, micro_batch_tokens=300)
    return _run(models_dir, folder, save_checkpoint=kept, settings=often), folder, kept


def _without_time(trials: tuple[Trial, ...]) -> list[Trial]:
    return [trial.model_copy(update={"seconds": 0.0}) for trial in trials]


def test_the_trial_of_the_lowest_validation_loss_wins(whole: tuple[Trained, Path, list[Resumable]]) -> None:
    trained, folder, saved = whole
    assert [trial.number for trial in trained.trials] == [1, 2, 3, 4, 5, 6]
    complete = [trial for trial in trained.trials if trial.state == "complete"]
    assert len(complete) >= 4
    best = min(complete, key=lambda trial: trial.valid_loss or 0)
    assert trained.metrics["best_trial"] == best.number
    assert trained.metrics["valid_loss"] == best.valid_loss == min(best.valid_losses)
    config = json.loads((trained.adapter / "adapter_config.json").read_text())
    assert config["r"] == best.hyperparameters["rank"]
    assert config["lora_alpha"] == 2 * config["r"]  # the job's scale
    assert config["lora_dropout"] == best.hyperparameters["dropout"]
    pruned = [trial for trial in trained.trials if trial.state == "pruned"]
    assert all(len(trial.valid_losses) < 2 for trial in pruned)

    assert [one.step for one in saved] == sorted({one.step for one in saved})
    finished = [note for note in events_of(folder, Note) if "state" in note.data]
    assert [Trial.model_validate(note.data) for note in finished] == list(trained.trials)
    assert {event.metrics.trial for event in events_of(folder, Measured)} == {1, 2, 3, 4, 5, 6}
    assert trained.metrics["seconds"] == pytest.approx(sum(one.seconds for one in trained.trials), abs=0.1)


@pytest.mark.parametrize("where", ["within the fifth trial", "before the sixth", "after the last"])
def test_taken_up_from_a_checkpoint_it_ends_the_same(
    whole: tuple[Trained, Path, list[Resumable]], models_dir: Path, tmp_path: Path, where: str
) -> None:
    """Nothing but the checkpoint is left of it, as after a kill -9."""
    expected, _, saved = whole
    between = [one for one in saved if not (one.folder / "trainer_state.json").is_file()]
    assert len(between) == 6
    within = [one for one in saved if between[3].step < one.step < between[4].step]
    checkpoint = {
        "within the fifth trial": within[0],
        "before the sixth": between[4],
        "after the last": between[5],
    }[where]
    # What is resumed from is removed on the way; others read it, too.
    folder = shutil.copytree(checkpoint.folder, tmp_path / "resume")
    resumed = _run(models_dir, tmp_path, resume=checkpoint.model_copy(update={"folder": folder}))
    assert _without_time(resumed.trials) == _without_time(expected.trials)
    assert resumed.metrics["best_trial"] == expected.metrics["best_trial"]
    assert_same_weights(expected.adapter, resumed.adapter)


def test_a_checkpoint_says_of_which_trial_it_is(whole: tuple[Trained, Path, list[Resumable]]) -> None:
    """Kept as an adapter before any trial has ended, it is described by that trial's values."""
    trained, _, saved = whole
    seen = set()
    for checkpoint in saved:
        if not (checkpoint.folder / "trainer_state.json").is_file():
            continue  # between two trials
        state = SweepState.model_validate_json(
            (checkpoint.folder / "kept" / "sweep" / "sweep.json").read_text()
        )
        trial = trained.trials[len(state.trials)]
        hyper, alone = of_running_trial(SWEPT, checkpoint)
        assert hyper == SWEPT.of_trial(trial.hyperparameters)
        assert alone.step == json.loads((checkpoint.folder / "trainer_state.json").read_text())["global_step"]
        assert 0 < alone.seconds <= trial.seconds + 0.1
        seen.add(trial.number)
    assert {1, 2} <= seen


def test_asked_to_stop_it_leaves_a_checkpoint_with_the_best_so_far(models_dir: Path, tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    with pytest.raises(TrainingStopped):
        _run(models_dir, tmp_path, stop=StopAtStep(13), save_checkpoint=kept)
    _, last = kept
    assert (last.folder / "trainer_state.json").is_file()
    best = best_so_far(last.folder)
    assert best is not None
    assert [trial.number for trial in best.trials] == [1]
    assert weights_of(best.adapter)
    assert best.metrics["best_trial"] == 1


@pytest.mark.parametrize("error", [MemoryError(), JobFailed("of another rank", code="out_of_memory")])
def test_trials_that_diverge_or_need_too_much_memory_fail_alone(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from narrowcast_trainer.engines.peft import PeftEngine

    train = PeftEngine.train
    micro_batch: list[int | None] = []

    def fault(self: PeftEngine, task: TrainingTask) -> Trained:
        micro_batch.append(task.max_micro_batch)
        # A real training diverges too late, and a machine that ran out of memory would end the tests.
        if task.scratch.name == "trial-1":
            raise JobFailed("it diverged", code="training_diverged")
        trained = train(self, task)
        if task.scratch.name == "trial-2":
            raise error
        return trained

    monkeypatch.setattr(PeftEngine, "train", fault)
    hyper = SWEPT.model_copy(update={"n_trials": 3, "n_epochs": 1})
    settings = TrainingSettings(checkpoint_every_s=1e6, micro_batch_tokens=1500)
    trained = _run(models_dir, tmp_path, hyperparameters=hyper, settings=settings)
    assert [(trial.state, trial.error) for trial in trained.trials] == [
        ("failed", "training_diverged"),
        ("failed", "out_of_memory"),
        ("complete", None),
    ]
    assert trained.metrics["best_trial"] == 3
    # Fewer rows at once were tried first, and stay for those that follow.
    assert micro_batch == [None, None, 2, 1, 1]


def test_if_all_trials_fail_so_does_the_job(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from narrowcast_trainer.engines.peft import PeftEngine

    def diverge(_self: PeftEngine, _task: TrainingTask) -> Trained:
        raise JobFailed("it diverged", code="training_diverged")

    monkeypatch.setattr(PeftEngine, "train", diverge)
    with pytest.raises(JobFailed, match="all trials diverged") as failed:
        _run(models_dir, tmp_path)
    assert failed.value.code == "training_diverged"


@pytest.mark.faults
def test_a_job_of_trials_survives_the_death_of_its_process(
    desk: Desk, start_worker: Callable[..., Worker]
) -> None:
    dataset = desk.dataset(rows(24), rows(3, 60))
    sweep = {"n_trials": 3, "n_epochs": 4, "sweep": {"learning_rate": [1e-4, 2e-2], "rank": [4, 8]}}
    job = desk.submit(dataset, hyper=sweep)
    worker = start_worker()
    desk.wait_for_event(job.id, "trial 2: checkpoint at step")
    os.kill(worker.training_pids()[-1], signal.SIGKILL)
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert ended.attempt == 2
    events = desk.events(job.id)
    assert len([message for message in events if message.startswith("trial 1 of 3")]) == 1
    trials = [Trial.model_validate(trial) for trial in ended.result["trials"]]
    assert [trial.number for trial in trials] == [1, 2, 3]
    models = desk.connections.storage.models
    prefix = adapter_prefix(desk.tenant, ended.result["adapter_id"])
    manifest = read_manifest(models, prefix, AdapterManifest)
    assert manifest.trials == trials
    assert ended.result["training_card"]
    best = trials[ended.result["best_trial"] - 1]
    assert manifest.rank == best.hyperparameters["rank"] == manifest.hyperparameters["rank"]
    assert manifest.metrics["valid_loss"] == best.valid_loss
    assert desk.checkpoints(job.id) == []


def test_without_validation_rows_nothing_starts(desk: Desk, start_worker: Callable[..., Worker]) -> None:
    job = desk.submit(desk.dataset(rows(4)), hyper={"n_trials": 2})
    start_worker()
    ended = desk.ended(job.id)
    assert ended.error is not None
    assert ended.error.code == "sweep_without_validation"

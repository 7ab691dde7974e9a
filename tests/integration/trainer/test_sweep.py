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
from narrowcast_trainer.protocol import EVENT, Measured, Note
from narrowcast_trainer.settings import TrainingSettings
from narrowcast_trainer.sweep import Sweep, SweepState, best_so_far, of_running_trial

from .conftest import TOY, Desk, Worker, rows
from .test_resume import HYPER, StopAtStep, _adapter, _task

pytestmark = pytest.mark.filterwarnings("ignore")
SWEEP: dict[str, Any] = {
    "n_trials": 6,
    "n_epochs": 2,
    "learning_rate": 1e-2,
    "sweep": {"learning_rate": [1e-5, 1e-2], "rank": [2, 4], "dropout": [0, 0.2]},
}
SWEPT = Hyperparameters.model_validate(HYPER.model_dump() | SWEEP)


def _run(base: Path, folder: Path, **changes: Any) -> Trained:
    from narrowcast_trainer.engines.peft import PeftEngine

    task = _task(base, folder / "run", folder / "events", **{"hyperparameters": SWEPT} | changes)
    return Sweep(PeftEngine(), task).run()


def _notes(folder: Path) -> list[Note]:
    parsed = [EVENT.validate_json(line) for line in (folder / "events").read_bytes().splitlines()]
    return [event for event in parsed if isinstance(event, Note)]


@pytest.fixture(scope="module")
def whole(
    models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Trained, Path, list[Resumable]]:
    """An uninterrupted sweep and all its checkpoints, as often as they can be."""
    folder = tmp_path_factory.mktemp("whole")
    saved: list[Resumable] = []

    def keep(written: Path, step: int, seconds: float) -> None:
        shutil.copytree(written, folder / f"checkpoint-{step}")
        saved.append(Resumable(folder=folder / f"checkpoint-{step}", step=step, seconds=seconds))

    settings = _task(models_dir / TOY, folder, folder / "none").settings
    often = settings.model_copy(update={"checkpoint_every_s": 1e-9})
    return _run(models_dir / TOY, folder, save_checkpoint=keep, settings=often), folder, saved


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
    finished = [note for note in _notes(folder) if "state" in note.data]
    assert [Trial.model_validate(note.data) for note in finished] == list(trained.trials)
    parsed = [EVENT.validate_json(line) for line in (folder / "events").read_bytes().splitlines()]
    steps = [event.metrics for event in parsed if isinstance(event, Measured)]
    assert {one.trial for one in steps} == {1, 2, 3, 4, 5, 6}
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
    resumed = _run(models_dir / TOY, tmp_path, resume=checkpoint.model_copy(update={"folder": folder}))
    assert _without_time(resumed.trials) == _without_time(expected.trials)
    assert resumed.metrics["best_trial"] == expected.metrics["best_trial"]
    want, got = _adapter(expected.adapter), _adapter(resumed.adapter)
    assert want.keys() == got.keys()
    assert all(bool((want[name] == got[name]).all()) for name in want)


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
    saved: list[Path] = []

    def keep(written: Path, step: int, seconds: float) -> None:
        shutil.copytree(written, tmp_path / f"checkpoint-{step}")
        saved.append(tmp_path / f"checkpoint-{step}")

    with pytest.raises(TrainingStopped):
        _run(models_dir / TOY, tmp_path, stop=StopAtStep(13), save_checkpoint=keep)
    assert len(saved) == 2
    assert (saved[-1] / "trainer_state.json").is_file()
    kept = best_so_far(saved[-1])
    assert kept is not None
    assert [trial.number for trial in kept.trials] == [1]
    assert _adapter(kept.adapter)
    assert kept.metrics["best_trial"] == 1


@pytest.mark.parametrize("error", [MemoryError(), JobFailed("of another rank", code="out_of_memory")])
def test_trials_that_diverge_or_need_too_much_memory_fail_alone(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from narrowcast_trainer.engines.peft import PeftEngine

    train = PeftEngine.train
    rows_at_once: list[int | None] = []

    def fault(self: PeftEngine, task: TrainingTask) -> Trained:
        rows_at_once.append(task.most_rows_at_once)
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
    trained = _run(models_dir / TOY, tmp_path, hyperparameters=hyper, settings=settings)
    assert [(trial.state, trial.error) for trial in trained.trials] == [
        ("failed", "training_diverged"),
        ("failed", "out_of_memory"),
        ("complete", None),
    ]
    assert trained.metrics["best_trial"] == 3
    # Fewer rows at once were tried first, and stay for those that follow.
    assert rows_at_once == [None, None, 2, 1, 1]


def test_if_all_trials_fail_so_does_the_job(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from narrowcast_trainer.engines.peft import PeftEngine

    def diverge(_self: PeftEngine, _task: TrainingTask) -> Trained:
        raise JobFailed("it diverged", code="training_diverged")

    monkeypatch.setattr(PeftEngine, "train", diverge)
    with pytest.raises(JobFailed, match="all trials diverged") as failed:
        _run(models_dir / TOY, tmp_path)
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

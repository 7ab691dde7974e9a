"""Sweeps on the toy base: the best is published, and an interrupted one ends as if it had not been."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from narrowcast.adapters import AdapterManifest, adapter_prefix
from narrowcast.artifacts import read_manifest
from narrowcast.errors import JobFailed
from narrowcast.jobs.records import JobStatus
from narrowcast.sweeps import Trial
from narrowcast.training import Hyperparameters, TrainingMetrics
from narrowcast_trainer.card.record import RunRecord
from narrowcast_trainer.checkpoints import Checkpoints, Resumable
from narrowcast_trainer.engines.base import Trained, TrainingStopped, TrainingTask
from narrowcast_trainer.protocol import Measured, Note, Prepared
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.run import publish_checkpoint
from narrowcast_trainer.settings import TrainerSettings, TrainingSettings
from narrowcast_trainer.stop import StopSignal
from narrowcast_trainer.sweep import Sweep, SweepState, _TrialReporter, best_so_far, of_running_trial

from .conftest import Desk, Worker, order_of, rows
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


class _Hungry:
    """An engine that takes 100 steps, saves every tenth, and needs too much memory at the 60th of a trial."""

    name = "hungry"

    def __init__(self, budget: int) -> None:
        self.budget = budget
        """Steps until it is asked to stop."""
        self.began: list[tuple[int, int]] = []
        """At which step, with how many rows at once."""

    def train(self, task: TrainingTask) -> Trained:
        micro_batch, step = task.max_micro_batch or 8, 0
        task.reporter.send(Prepared(micro_batch=micro_batch))
        if task.resume:
            step = json.loads((task.resume.folder / "trainer_state.json").read_text())["global_step"]
        self.began.append((step, micro_batch))
        while step < 100:
            step += 1
            self.budget -= 1
            if step == 60 and micro_batch > 4:
                raise MemoryError
            if step % 10 == 0 or self.budget <= 0:
                folder = task.scratch / f"checkpoint-{step}"
                folder.mkdir(parents=True)
                (folder / "trainer_state.json").write_text(
                    json.dumps({"global_step": step, "log_history": []})
                )
                task.save_checkpoint(folder, step, 1.0)
                shutil.rmtree(folder)
            if self.budget <= 0:
                raise TrainingStopped(step)
        adapter = task.scratch / "adapter"
        adapter.mkdir()
        assert task.should_prune is not None
        task.should_prune([1.0], last=True)
        return Trained(adapter, "none", {"seconds": 1.0, "steps": 100.0}, RunRecord())

    def smoke_test(self, task: TrainingTask, adapter: Path) -> None: ...


def _hungry_task(checkpoints: Checkpoints, folder: Path) -> TrainingTask:
    return TrainingTask(
        base=folder,
        hyperparameters=Hyperparameters(n_trials=2),
        settings=TrainingSettings(),
        train=[],
        validation=[],
        pad_id=0,
        scratch=folder / "run",
        resume=checkpoints.fetch_newest(folder / "resume"),
        reporter=Reporter(os.open(os.devnull, os.O_WRONLY)),
        stop=StopSignal(),
        save_checkpoint=checkpoints.save,
    )


def test_a_trial_that_ran_out_of_memory_goes_on_with_fewer_rows_also_after_an_interruption(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """Or an attempt that is shorter than a trial would begin the trial again and again."""

    def attempt(number: int, budget: int) -> _Hungry:
        engine = _Hungry(budget)
        sweep = Sweep(engine, _hungry_task(checkpoints, tmp_path / str(number)))
        if number < 3:
            with pytest.raises(TrainingStopped):
                sweep.run()
        else:
            assert [trial.state for trial in sweep.run().trials] == ["complete"] * 2
        return engine

    assert attempt(1, 60 + 35).began == [(0, 8), (0, 4)]
    assert attempt(2, 40).began == [(35, 4)]
    assert attempt(3, 1000).began == [(75, 4), (0, 4)]


def test_so_does_one_whose_process_the_kernel_has_killed_for_it(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """The attempt after it is told by the worker; the next one only by the checkpoint."""
    task = replace(_hungry_task(checkpoints, tmp_path / "1"), max_micro_batch=4)
    with pytest.raises(TrainingStopped):
        Sweep(_Hungry(35), task).run()
    engine = _Hungry(1000)
    Sweep(engine, _hungry_task(checkpoints, tmp_path / "2")).run()
    assert engine.began == [(35, 4), (0, 4)]


def test_of_a_sweep_without_any_weights_nothing_is_kept(
    desk: Desk, trainer_settings: TrainerSettings, tmp_path: Path
) -> None:
    job = desk.submit(desk.dataset(rows(4), rows(2, 50)), hyper={"n_trials": 2})
    own = Checkpoints(desk.connections.storage.models, desk.tenant, job.id, keep=2)
    (tmp_path / "between" / "kept" / "sweep").mkdir(parents=True)
    (tmp_path / "between" / "kept" / "sweep" / "sweep.json").write_text(SweepState().model_dump_json())
    own.save(tmp_path / "between", 1, seconds=1.0)
    with pytest.raises(JobFailed) as refused:
        publish_checkpoint(
            order_of(job, trainer_settings), Reporter(os.open(os.devnull, os.O_WRONLY)), StopSignal()
        )
    assert refused.value.code == "no_checkpoint"


def test_a_sweep_whose_checkpoint_is_another_version_s_begins_anew(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """Failed for that, it would lose the checkpoint to those who go back to the other version."""
    with pytest.raises(TrainingStopped):
        Sweep(_Hungry(60 + 35), _hungry_task(checkpoints, tmp_path / "1")).run()
    resume = checkpoints.fetch_newest(tmp_path / "2")
    assert resume is not None
    state = resume.folder / "kept" / "sweep" / "sweep.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"best_record": {"attempts": [{}]}}))
    with pytest.raises(JobFailed, match="another version"):
        of_running_trial(Hyperparameters(n_trials=2), resume)
    assert best_so_far(resume.folder) is None
    engine = _Hungry(1000)
    task = replace(_hungry_task(checkpoints, tmp_path / "3"), resume=resume)
    assert len(Sweep(engine, task).run().trials) == 2
    assert engine.began[0] == (0, 8)
    newest = checkpoints.fetch_newest(tmp_path / "4")
    assert newest is not None
    assert newest.step > resume.step


def test_a_resumed_trial_keeps_its_values(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """Another version would suggest others: its weights are of that rank."""
    with pytest.raises(TrainingStopped):
        Sweep(_Hungry(50), _hungry_task(checkpoints, tmp_path / "1")).run()
    resume = checkpoints.fetch_newest(tmp_path / "2")
    assert resume is not None
    path = resume.folder / "kept" / "sweep" / "sweep.json"
    state = SweepState.model_validate_json(path.read_text())
    assert state.running["rank"] == 64
    path.write_text(state.model_copy(update={"running": state.running | {"rank": 16}}).model_dump_json())
    trials = (
        Sweep(_Hungry(1000), replace(_hungry_task(checkpoints, tmp_path / "3"), resume=resume)).run().trials
    )
    assert trials[0].hyperparameters == state.running | {"rank": 16}
    assert len(trials) == 2


class _Validated(_Hungry):
    """As it, but has its best weights from the first validation on."""

    def train(self, task: TrainingTask) -> Trained:
        best = task.scratch / "best"
        self.found = best.exists()
        best.mkdir(parents=True, exist_ok=True)
        return super().train(task)


def test_a_trial_that_begins_again_has_no_weights_of_the_run_before(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    engine = _Validated(1000)
    Sweep(engine, _hungry_task(checkpoints, tmp_path / "1")).run()
    assert engine.began[:2] == [(0, 8), (0, 4)]
    assert not engine.found


def test_a_sweep_ends_when_all_combinations_have_been_tried(checkpoints: Checkpoints, tmp_path: Path) -> None:
    task = _hungry_task(checkpoints, tmp_path / "1")
    hyper = Hyperparameters.model_validate({"n_trials": 5, "rank": 8, "sweep": {"rank": [8, 16]}})
    trials = Sweep(_Hungry(1000), replace(task, hyperparameters=hyper)).run().trials
    assert [trial.hyperparameters for trial in trials] == [{"rank": 8}, {"rank": 16}]


def test_what_is_left_of_a_sweep_is_told_also_at_a_trial_s_end(tmp_path: Path) -> None:
    with (tmp_path / "events").open("wb") as file:
        reporter = _TrialReporter(Reporter(file.fileno()), 1, 3)
        for step, eta_s in ((1, 30.0), (4, 0.0)):
            reporter.send(
                Measured(
                    metrics=TrainingMetrics(step=step, total_steps=4, epoch=1.0, train_loss=1.0, eta_s=eta_s)
                )
            )
    told = [event.metrics.eta_s for event in events_of(tmp_path, Measured)]
    assert told == [30 + 2 * 40, 2 * 40]

"""Sweeps by an engine that trains nothing, cut off at any place: what the next attempt takes up."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from narrowcast.errors import JobFailed
from narrowcast.training import Hyperparameters, TrainingMetrics
from narrowcast_trainer.card.record import RunRecord
from narrowcast_trainer.checkpoints import Checkpoints
from narrowcast_trainer.engines.base import Trained, TrainingStopped, TrainingTask
from narrowcast_trainer.protocol import Measured, Prepared
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.run import publish_checkpoint
from narrowcast_trainer.settings import TrainerSettings, TrainingSettings
from narrowcast_trainer.stop import StopSignal
from narrowcast_trainer.sweep import Sweep, SweepState, _TrialReporter, best_so_far, of_running_trial

from .conftest import Desk, order_of, rows
from .trainings import events_of

pytestmark = pytest.mark.filterwarnings("ignore")


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

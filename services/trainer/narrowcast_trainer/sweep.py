"""A sweep: the same training several times with other hyper-parameters, the best run published.

The trials run one after another in the job's one training process. What it has found so far, the
finished trials and the best adapter, lies in every checkpoint, beside the running trial's own.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.sweeps import Trial, best_trial
from narrowcast.training import Hyperparameters
from narrowcast_trainer.card.record import RunRecord
from narrowcast_trainer.checkpoints import Resumable
from narrowcast_trainer.engines.base import Engine, Trained, TrainingStopped, TrainingTask
from narrowcast_trainer.memory import is_out_of_memory
from narrowcast_trainer.protocol import OUT_OF_MEMORY, Event, Measured, Note, Prepared
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.suggestions import should_prune, suggest

_IN_CHECKPOINT: Final = Path("kept", "sweep")
_STATE: Final = "sweep.json"
_BEST: Final = "best"
_DIVERGED: Final = "training_diverged"
_OUT_OF_MEMORY: Final = "out_of_memory"


class SweepState(BaseModel):
    """What a sweep has found."""

    trials: list[Trial] = []
    step: int = 0
    """Checkpoints are numbered through all trials; the running one's follow this one."""
    seconds: float = 0.0
    """Of the finished trials."""
    best_metrics: dict[str, float] = {}
    best_quantization: str | None = None
    best_record: RunRecord = RunRecord()
    running: dict[str, Any] = {}
    """The values of the trial that runs; empty between two."""
    max_micro_batch: int | None = None
    """In one forward pass, after a trial, the process or the container with more ran out of memory."""


def best_so_far(checkpoint: Path) -> Trained | None:
    """Return the best finished trial that a sweep's checkpoint carries; None before there is one."""
    best = checkpoint / _IN_CHECKPOINT / _BEST
    state = _state_in(checkpoint) if best.is_dir() else None
    return None if state is None else _trained(best, state)


def of_running_trial(hyper: Hyperparameters, checkpoint: Resumable) -> tuple[Hyperparameters, Resumable]:
    """Return the hyper-parameters, and the checkpoint, of the run whose weights it holds.

    Of a sweep that is the trial that was running, as if it had been alone.

    Raises:
        JobFailed: ``no_checkpoint``, it is another version's.
    """
    if hyper.n_trials == 1:
        return hyper, checkpoint
    state = _state_in(checkpoint.folder)
    if state is None:
        raise JobFailed("the checkpoint is another version's", code="no_checkpoint")
    own = {"step": checkpoint.step - state.step, "seconds": round(checkpoint.seconds - state.seconds, 1)}
    return hyper.of_trial(state.running), checkpoint.model_copy(update=own)


def first_run(task: TrainingTask) -> TrainingTask:
    """Return the task of the run that a job's task goes on, or begins, with: of a sweep a trial's."""
    hyper = task.hyperparameters
    if hyper.n_trials == 1:
        return task
    state = (_state_in(task.resume.folder) if task.resume else None) or SweepState()
    values = state.running or suggest(hyper, state.trials) or {}
    most = _least(state.max_micro_batch, task.max_micro_batch)
    return replace(task, hyperparameters=hyper.of_trial(values), max_micro_batch=most)


def _state_in(checkpoint: Path) -> SweepState | None:
    """Return where a sweep stood; None if another version wrote it down, or it is no sweep's checkpoint."""
    try:
        return SweepState.model_validate_json((checkpoint / _IN_CHECKPOINT / _STATE).read_text())
    except (FileNotFoundError, ValidationError):
        return None


def _trained(adapter: Path, state: SweepState) -> Trained:
    metrics = state.best_metrics | {"seconds": round(state.seconds, 1)}
    trials = tuple(state.trials)
    return Trained(adapter, state.best_quantization, metrics, state.best_record, trials)


class Sweep:
    """The trials of one job."""

    def __init__(self, engine: Engine, task: TrainingTask) -> None:
        self._engine = engine
        self._task = task
        self._hyper = task.hyperparameters
        self._best = task.scratch / _BEST
        self._state = SweepState()
        self._resume = task.resume
        self._saved_step = 0

    def run(self) -> Trained:
        """Run the trials that are left; return the best one's adapter, with all trials.

        Raises:
            TrainingStopped: ``task.stop`` said so.
            JobFailed: all trials failed; or what would fail every one of them alike.
        """
        self._take_up()
        # Also what the kernel has killed the process for: the next attempt is told by the checkpoint alone.
        self._state.max_micro_batch = _least(self._state.max_micro_batch, self._task.max_micro_batch)
        while len(self._state.trials) < self._hyper.n_trials:
            if self._task.stop.requested:
                raise TrainingStopped(self._saved_step or None)
            # What a trial was begun with, whatever this version would suggest: its weights are of that rank.
            resumed = self._state.running if self._resume else None
            values = resumed or suggest(self._hyper, self._state.trials)
            if values is None:
                self._task.reporter.note("the sweep ends: there is no other combination to try")
                break
            self._finish(self._trial(values))
        best = best_trial(self._state.trials)
        if best is None:
            raise self._all_failed()
        self._task.reporter.note(f"trial {best.number} is the best", trial=best.number)
        return _trained(self._best, self._state)

    def _trial(self, values: dict[str, Any]) -> Trial:
        number = len(self._state.trials) + 1
        self._task.reporter.note(
            f"trial {number} of {self._hyper.n_trials}: {_listed(values)}",
            trial=number,
            hyperparameters=values,
        )
        run = _Run(number, values, self._hyper, self._state.trials, self._task.reporter)
        self._state.running = values
        started = time.monotonic()
        earlier = self._resume.seconds if self._resume else 0.0
        while True:
            try:
                trained = self._engine.train(self._as_task(run))
                break
            except Exception as error:
                code = _failure_of_a_trial(error)
                if code is None:
                    raise
                # An exception holds the frames that it passed, and those the model.
                error.__traceback__ = None
            if code == _OUT_OF_MEMORY and run.reporter.micro_batch > 1:
                self._resume = None
                # Its best weights so far are not those of the run that begins.
                shutil.rmtree(self._task.scratch / f"trial-{number}", ignore_errors=True)
                self._state.max_micro_batch = run.reporter.micro_batch // 2
                # Its checkpoints so far are older than those to come, whose steps are counted from 0 again:
                # the newest one is resumed, and kept.
                self._state.step = self._saved_step + 1
                run.reporter.note(
                    f"out of memory with {run.reporter.micro_batch} rows at once:"
                    f" beginning again with {self._state.max_micro_batch}",
                    warn=True,
                )
                continue
            return run.ended("failed", earlier + time.monotonic() - started, code)
        state = "pruned" if run.pruned else "complete"
        trial = run.ended(state, trained.metrics["seconds"])
        if best_trial([*self._state.trials, trial]) is trial:
            shutil.rmtree(self._best, ignore_errors=True)
            shutil.copytree(trained.adapter, self._best)
            self._state.best_metrics = trained.metrics | {"best_trial": float(number)}
            self._state.best_quantization = trained.quantization
            self._state.best_record = trained.record
        self._saved_step = max(self._saved_step, self._state.step + int(trained.metrics["steps"]))
        return trial

    def _as_task(self, run: "_Run") -> TrainingTask:
        return replace(
            self._task,
            hyperparameters=self._hyper.of_trial(run.values),
            scratch=self._task.scratch / f"trial-{run.number}",
            resume=self._resume,
            reporter=run.reporter,
            run_name=f"{self._task.run_name}-trial-{run.number}",
            save_checkpoint=self._save,
            max_micro_batch=self._state.max_micro_batch,
            should_prune=run.should_prune,
        )

    def _finish(self, trial: Trial) -> None:
        shutil.rmtree(self._task.scratch / f"trial-{trial.number}", ignore_errors=True)
        self._resume = None
        self._state.running = {}
        self._state.trials.append(trial)
        self._state.seconds += trial.seconds
        self._state.step = self._saved_step + 1
        loss = "" if trial.valid_loss is None else f", validation loss {trial.valid_loss:.4f}"
        reason = f" ({trial.error})" if trial.error else ""
        self._task.reporter.note(
            f"trial {trial.number}: {trial.state}{reason}{loss}",
            warn=trial.state == "failed",
            **trial.model_dump(mode="json"),
        )
        folder = self._task.scratch / "between-trials"
        folder.mkdir(parents=True)
        try:
            self._save(folder, 0, 0.0)
        except Unavailable as error:
            # What is lost with it is at most this trial, and only if the process dies now.
            self._task.reporter.note(f"a checkpoint was not saved: {error.message}", warn=True)
        shutil.rmtree(folder)

    def _save(self, folder: Path, step: int, seconds: float) -> None:
        kept = folder / _IN_CHECKPOINT
        kept.mkdir(parents=True, exist_ok=True)
        (kept / _STATE).write_text(self._state.model_dump_json())
        if self._best.is_dir():
            shutil.copytree(self._best, kept / _BEST, dirs_exist_ok=True)
        self._task.save_checkpoint(folder, self._state.step + step, self._state.seconds + seconds)
        self._saved_step = self._state.step + step

    def _take_up(self) -> None:
        if self._resume is None:
            return
        kept = self._resume.folder / _IN_CHECKPOINT
        self._saved_step = self._resume.step
        state = _state_in(self._resume.folder)
        if state is None:
            self._task.reporter.note("the checkpoint is another version's: the sweep begins anew", warn=True)
            self._state.step = self._saved_step + 1  # so that its checkpoints are newer than this one
            self._resume = None
            return
        self._state = state
        if (kept / _BEST).is_dir():
            shutil.rmtree(self._best, ignore_errors=True)
            shutil.copytree(kept / _BEST, self._best)
        within_a_trial = (self._resume.folder / "trainer_state.json").is_file()
        self._resume = (
            Resumable(
                folder=self._resume.folder,
                step=self._resume.step,
                seconds=self._resume.seconds - self._state.seconds,
            )
            if within_a_trial
            else None
        )

    def _all_failed(self) -> JobFailed:
        codes = {trial.error for trial in self._state.trials}
        if codes == {_OUT_OF_MEMORY}:
            return JobFailed(f"all trials failed: {OUT_OF_MEMORY}", code=_OUT_OF_MEMORY)
        return JobFailed(
            "all trials diverged; lower learning_rate, or the bounds of sweep.learning_rate"
            if codes == {_DIVERGED}
            else "all trials diverged or ran out of memory; lower learning_rate and max_length",
            code=_DIVERGED,
        )


class _Run:
    """One trial while it runs."""

    def __init__(
        self,
        number: int,
        values: dict[str, Any],
        hyper: Hyperparameters,
        earlier: Sequence[Trial],
        reporter: Reporter,
    ) -> None:
        self.number = number
        self.values = values
        self.pruned = False
        self.reporter = _TrialReporter(reporter, number, hyper.n_trials)
        self._hyper = hyper
        self._earlier = earlier
        self._losses: tuple[float, ...] = ()

    def should_prune(self, losses: Sequence[float], *, last: bool) -> bool:
        """Take the validation losses so far; whether to go no further."""
        self._losses = tuple(losses)
        self.pruned = not last and should_prune(self._hyper, self._earlier, self.values, losses)
        return self.pruned

    def ended(self, state: str, seconds: float, error: str | None = None) -> Trial:
        return Trial.model_validate(
            {
                "number": self.number,
                "state": state,
                "hyperparameters": self.values,
                "valid_loss": min(self._losses) if self._losses and error is None else None,
                "valid_losses": self._losses,
                "seconds": round(seconds, 1),
                "error": error,
            }
        )


class _TrialReporter(Reporter):
    """Says of everything which trial it is of; what remains is counted for the whole sweep."""

    def __init__(self, whole: Reporter, number: int, trials: int) -> None:
        self.micro_batch = 1
        self._whole = whole
        self._number = number
        self._left = trials - number
        self._step_s = 0.0

    def send(self, event: Event) -> None:
        if isinstance(event, Note):
            event = event.model_copy(update={"message": f"trial {self._number}: {event.message}"})
        elif isinstance(event, Prepared):
            self.micro_batch = event.micro_batch
        elif isinstance(event, Measured):
            event = Measured(metrics=event.metrics.model_copy(update=self._of_sweep(event)))
        self._whole.send(event)

    def tick(self) -> None:
        self._whole.tick()

    def _of_sweep(self, event: Measured) -> dict[str, Any]:
        metrics, eta = event.metrics, event.metrics.eta_s
        if eta is not None:
            if metrics.step < metrics.total_steps:
                self._step_s = eta / (metrics.total_steps - metrics.step)
            # As if the trials to come took as long as this one; pruned ones take less.
            eta += self._left * self._step_s * metrics.total_steps
        return {"trial": self._number, "eta_s": eta}


def _failure_of_a_trial(error: Exception) -> str | None:
    """Return the code of what is the fault of one trial's hyper-parameters; None for all else."""
    if isinstance(error, JobFailed):
        # Of another rank memory's end is told by its code.
        return error.code if error.code in {_DIVERGED, _OUT_OF_MEMORY} else None
    return _OUT_OF_MEMORY if is_out_of_memory(error) else None


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )

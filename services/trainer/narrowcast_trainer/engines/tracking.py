"""Tells the site's trackers how a run goes, through Transformers' own callbacks but for trackio's.

Two things are ours. What they are shown is the job's hyper-parameters and the Trainer's numbers: no
model, no paths, no rows. And no tracker's failure reaches the training.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from transformers import TrainerCallback
from transformers.integrations.integration_utils import MLflowCallback, WandbCallback, rewrite_logs

from narrowcast import logs
from narrowcast_trainer.engines.base import TrainingStopped, TrainingTask
from narrowcast_trainer.trackers import TrackerName

_log = logs.get(__name__)
_PROJECT: Final = "narrowcast"
_AGAIN_AFTER_S: Final = 600.0
"""After a failure. An attempt may take half a minute in which nothing trains."""
_WANDB_TIMEOUT_S: Final = 15.0
_Ending = Literal["finished", "stopped", "failed"]


@contextmanager
def tracked(task: TrainingTask) -> Iterator[list[TrainerCallback]]:
    """Return the callbacks of the site's trackers; on leaving, their runs are closed as what they are."""
    callbacks = [GuardedTracker(name, task) for name in task.settings.report_to]
    ending: _Ending = "failed"
    try:
        yield list(callbacks)
        ending = "finished"
    except TrainingStopped:
        ending = "stopped"
        raise
    finally:
        for callback in callbacks:
            callback.close(ending)


@dataclass(frozen=True)
class _Shown:
    """What stands in for ``TrainingArguments``: the attributes that the callbacks read."""

    run_name: str
    project: str
    parameters: dict[str, Any]
    output_dir: str = ""
    logging_steps: int = 1

    def to_dict(self) -> dict[str, Any]:
        return self.parameters


class GuardedTracker(TrainerCallback):
    """One tracker; its failures are a warning to the user, and then silence for a while."""

    def __init__(self, name: TrackerName, task: TrainingTask) -> None:
        self._name = name
        self._task = task
        self._shown = _Shown(
            run_name=task.run_name,
            project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
            parameters={"base_model": task.base.name}
            | task.hyperparameters.model_dump(mode="json", exclude={"n_trials", "sweep"}),
        )
        self._callback: TrainerCallback | None = None
        self._silent_until = 0.0
        self._warned = False

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Send the numbers of a step or of a validation."""
        if time.monotonic() >= self._silent_until:
            self._guarded(lambda: self._send(state, control, more["logs"]))

    def close(self, ending: _Ending) -> None:
        """End the run; one that was stopped can be gone on with."""
        if self._callback is not None:
            self._guarded(lambda: _END[self._name](ending))
            self._callback = None

    def _send(self, state: Any, control: Any, numbers: dict[str, float]) -> None:
        shown: Any = self._shown
        if self._callback is None:
            callback = _BEGIN[self._name](self._shown, self._task.scratch)
            callback.on_train_begin(shown, state, control)
            self._callback = callback
        self._callback.on_log(shown, state, control, logs=dict(numbers))

    def _guarded(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the training matters more
            # Its text may quote an address with a token in it.
            self._silent_until = time.monotonic() + _AGAIN_AFTER_S
            _log.warning("tracker_failed", tracker=self._name, error=type(error).__name__)
            if not self._warned:
                self._warned = True
                self._task.reporter.note(
                    f"{self._name} cannot be told how this goes ({type(error).__name__});"
                    " the training goes on without it",
                    warn=True,
                )


def _begin_mlflow(shown: _Shown, _scratch: Path) -> TrainerCallback:
    import mlflow

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", shown.project)
    experiment = mlflow.set_experiment(name)
    # A resumed run goes on where it was. Its id is the server's to give, its name ours.
    found = mlflow.MlflowClient().search_runs(
        [experiment.experiment_id], f"tags.`mlflow.runName` = '{shown.run_name}'", max_results=1
    )
    with suppress(Exception):
        mlflow.end_run()  # one that a failure left open
    mlflow.start_run(run_id=found[0].info.run_id if found else None, run_name=shown.run_name)
    return MLflowCallback()  # type: ignore[no-untyped-call]


def _end_mlflow(ending: _Ending) -> None:
    import mlflow

    mlflow.flush_async_logging()
    mlflow.end_run({"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[ending])


def _begin_wandb(shown: _Shown, scratch: Path) -> TrainerCallback:
    import wandb

    wandb.init(
        project=os.environ.get("WANDB_PROJECT", shown.project),
        id=shown.run_name,
        name=shown.run_name,
        resume="allow",
        dir=os.environ.get("WANDB_DIR", scratch),
        # Neither what is printed nor what this machine is.
        settings=wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            silent=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            init_timeout=_WANDB_TIMEOUT_S,
            login_timeout=_WANDB_TIMEOUT_S,
        ),
    )
    return WandbCallback()  # type: ignore[no-untyped-call]


def _end_wandb(ending: _Ending) -> None:
    import wandb

    # It has no word for a run that is stopped; 255 is what it writes itself after Ctrl-C.
    wandb.finish(exit_code={"finished": 0, "stopped": 255, "failed": 1}[ending])


class _TrackioCallback(TrainerCallback):
    """Not Transformers' own: that counts what it sends as steps, and lets trackio send the node's figures."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        import trackio

        trackio.init(
            project=args.project,
            name=args.run_name,
            config=args.to_dict(),
            resume="allow",
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        import trackio

        if "train_runtime" not in more["logs"]:  # the run's totals are no point of a curve
            numbers = rewrite_logs(more["logs"])  # type: ignore[no-untyped-call]
            trackio.log(numbers, step=state.global_step)


def _begin_trackio(_shown: _Shown, _scratch: Path) -> TrainerCallback:
    return _TrackioCallback()


def _end_trackio(_ending: _Ending) -> None:
    import trackio

    trackio.finish()  # its runs have no state


_BEGIN: Final[dict[TrackerName, Callable[[_Shown, Path], TrainerCallback]]] = {
    "mlflow": _begin_mlflow,
    "wandb": _begin_wandb,
    "trackio": _begin_trackio,
}
_END: Final[dict[TrackerName, Callable[[_Ending], None]]] = {
    "mlflow": _end_mlflow,
    "wandb": _end_wandb,
    "trackio": _end_trackio,
}

"""Tells the site's trackers how a run goes, through Transformers' own callbacks.

Two things are ours. What they are shown is the job's hyper-parameters and the Trainer's numbers: no
model, no paths, no rows. And no tracker's failure reaches the training.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from narrowcast import logs
from narrowcast_trainer.engines.base import TrainingTask
from narrowcast_trainer.trackers import TrackerName

_log = logs.get(__name__)
_PROJECT: Final = "narrowcast"
_AGAIN_AFTER_S: Final = 600.0
"""After a failure. An attempt may take half a minute in which nothing trains."""
_WANDB_TIMEOUT_S: Final = 15.0


@contextmanager
def tracked(task: TrainingTask) -> Iterator[list[TrainerCallback]]:
    """Return the callbacks of the site's trackers; on leaving, their runs are closed."""
    callbacks = [GuardedTracker(name, task) for name in task.settings.report_to]
    failed = True
    try:
        yield list(callbacks)
        failed = False
    finally:
        for callback in callbacks:
            callback.close(failed=failed)


@dataclass(frozen=True)
class _Shown:
    """What stands in for ``TrainingArguments``: the attributes that the three callbacks read."""

    run_name: str
    project: str
    parameters: dict[str, Any]
    output_dir: str = ""
    logging_steps: int = 1
    hub_private_repo: bool = True
    trackio_space_id: str | None = None
    trackio_bucket_id: str | None = None
    trackio_static_space_id: bool = False

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

    def close(self, *, failed: bool) -> None:
        """End the run."""
        if self._callback is not None:
            self._guarded(lambda: _END[self._name](failed))
            self._callback = None

    def _send(self, state: Any, control: Any, numbers: dict[str, float]) -> None:
        shown: Any = self._shown
        if self._callback is None:
            _BEGIN[self._name](self._shown, self._task.scratch)
            callback = INTEGRATION_TO_CALLBACK[self._name]()
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


def _begin_mlflow(shown: _Shown, _scratch: Path) -> None:
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


def _end_mlflow(failed: bool) -> None:
    import mlflow

    mlflow.flush_async_logging()
    mlflow.end_run("FAILED" if failed else "FINISHED")


def _begin_wandb(shown: _Shown, scratch: Path) -> None:
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


def _end_wandb(failed: bool) -> None:
    import wandb

    wandb.finish(exit_code=int(failed))


def _begin_trackio(_shown: _Shown, _scratch: Path) -> None:
    """Nothing: its callback opens the run by its name, and goes on with one that is there."""


def _end_trackio(_failed: bool) -> None:
    import trackio

    trackio.finish()


_BEGIN: Final[dict[TrackerName, Callable[[_Shown, Path], None]]] = {
    "mlflow": _begin_mlflow,
    "wandb": _begin_wandb,
    "trackio": _begin_trackio,
}
_END: Final[dict[TrackerName, Callable[[bool], None]]] = {
    "mlflow": _end_mlflow,
    "wandb": _end_wandb,
    "trackio": _end_trackio,
}

"""Runs one job's process to its end, whichever end that is, and says why it ended."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress

from pydantic import JsonValue

from narrowcast import logs
from narrowcast.errors import JobFailed, Unavailable
from narrowcast.jobs.records import LeaseLost
from narrowcast.jobs.running import Cancelled, Interrupted, RunningJob
from narrowcast.training import TrainingMetrics
from narrowcast_trainer import metrics
from narrowcast_trainer.child import JobProcess
from narrowcast_trainer.memory import out_of_memory_kills
from narrowcast_trainer.protocol import (
    Advanced,
    Completed,
    Event,
    Failed,
    Measured,
    Note,
    Order,
    Prepared,
    Stopped,
    TrainingOrder,
)
from narrowcast_trainer.reasons import SEE_LOG

_log = logs.get(__name__)
_POLL_S = 0.2
_MOST_STEPS_TOLD = 5000
"""Of a job, in events: the store keeps a job's newest 20,000."""
_DRAIN_S = 5.0
"""How long a dead process's pipes are read: something it started may hold them open."""


class ProcessCrashed(Unavailable):
    """A job's process died without a reason of its own; the next attempt resumes."""


class OutOfMemory(JobFailed):
    """The job needs more memory than there is."""

    code = "out_of_memory"

    def __init__(self, message: str, micro_batch: int) -> None:
        super().__init__(message)
        self.micro_batch = micro_batch
        """In one forward pass; 0 if it did not come to that."""


class Supervision:
    """Watches one process of one job.

    Stop order: SIGTERM ends a training after its step and leaves a checkpoint, SIGINT ends
    it and leaves nothing; what still runs after ``stop_grace_s`` is killed, as is at once a
    training whose lease is lost, because its successor may have started.
    """

    def __init__(self, running: RunningJob, order: Order, beat: Callable[[], None]) -> None:
        self._running = running
        self._order = order
        self._beat = beat
        self._uncancellable = isinstance(order, TrainingOrder) and order.task == "publish_checkpoint"
        self._told: tuple[int | None, int] = (None, 0)
        """Trial and step of the newest event with a step's metrics."""
        self._outcome: Completed | Stopped | Failed | None = None
        self._micro_batch = 0
        self._stopping: type[Exception] | None = None
        self._kill_at = float("inf")

    def run(self) -> dict[str, JsonValue]:
        """Train; return the result.

        Raises:
            JobFailed: for a reason that another attempt would meet again; :class:`OutOfMemory` is one.
            Unavailable: for one that it might not.
            Cancelled: the user wanted it to stop.
            Interrupted: it has to stop for now: the worker stops, the user paused it, its hours are over.
            LeaseLost: the job is another worker's now.
        """
        kills_before = out_of_memory_kills()
        threads = _threads(self._order.settings.threads)
        shown = metrics.training() if isinstance(self._order, TrainingOrder) else nullcontext()
        with shown, JobProcess(self._order, threads) as child:
            _log.info(f"{self._order.work}_process_started", pid=child.pid)
            while (status := child.exit_status()) is None:
                for event in child.events(_POLL_S):
                    self._take(event)
                self._stop_if_due(child)
            drain_until = time.monotonic() + _DRAIN_S
            while not child.silent and time.monotonic() < drain_until:
                for event in child.events(_POLL_S):
                    self._take(event)
            _log.info(f"{self._order.work}_process_ended", exit_status=status, exception=child.last_exception)
            return self._conclude(status, child.last_exception, out_of_memory_kills() > kills_before)

    def _take(self, event: Event) -> None:
        self._beat()
        metrics.show(event)
        if isinstance(event, Note):
            self._running.event(event.message, level=event.level, data=event.data)
        elif isinstance(event, Advanced):
            with suppress(Cancelled, Interrupted, LeaseLost):  # seen again, and acted on, by _stop_if_due
                self._running.progress(step=event.step)
        elif isinstance(event, Prepared):
            self._micro_batch = event.micro_batch
        elif isinstance(event, Measured):
            self._measured(event.metrics)
        elif isinstance(event, Completed | Stopped | Failed):
            self._outcome = event

    def _measured(self, measured: TrainingMetrics) -> None:
        data = measured.model_dump(exclude_none=True)
        loss = measured.valid_loss if measured.train_loss is None else measured.train_loss
        name = "validation loss" if measured.train_loss is None else "training loss"
        trial = "" if measured.trial is None else f"trial {measured.trial}: "
        place = f"{trial}step {measured.step}/{measured.total_steps}"
        message = f"{place}: {name}={loss:.4f}" if loss is not None else ""
        if self._worth_an_event(measured):
            self._running.event(message, type="metrics", data=data)
        if measured.train_loss is not None:
            with suppress(Cancelled, Interrupted, LeaseLost):  # seen again, and acted on, by _stop_if_due
                self._running.progress(**data, at=time.time())

    def _worth_an_event(self, measured: TrainingMetrics) -> bool:
        """Whether to tell of a step: not of each in a long training, whose beginning would be forgotten."""
        if measured.train_loss is None or measured.step >= measured.total_steps:
            return True
        trials = self._order.spec.hyperparameters.n_trials if isinstance(self._order, TrainingOrder) else 1
        trial, step = self._told
        every = measured.total_steps * trials / _MOST_STEPS_TOLD
        if measured.trial == trial and 0 < measured.step - step < every:
            return False
        self._told = (measured.trial, measured.step)
        return True

    def _stop_if_due(self, child: JobProcess) -> None:
        if self._running.is_lost():
            if self._stopping is not LeaseLost:
                self._stopping = LeaseLost
                child.signal(signal.SIGKILL)
        elif self._running.cancelled.is_set() and not self._uncancellable:
            if self._stopping is not Cancelled:
                keep = self._running.job.keep_checkpoint
                self._request(child, signal.SIGTERM if keep else signal.SIGINT, Cancelled)
        elif self._stopping is None and self._running.should_stop():
            self._request(child, signal.SIGTERM, Interrupted)
        if time.monotonic() >= self._kill_at:
            after_s = self._order.settings.stop_grace_s
            _log.warning(f"{self._order.work}_process_killed", after_s=after_s)
            self._kill_at = float("inf")
            child.signal(signal.SIGKILL)

    def _request(self, child: JobProcess, number: signal.Signals, why: type[Exception]) -> None:
        _log.info(f"{self._order.work}_stop_requested", reason=why.__name__)
        self._stopping = why
        self._kill_at = min(self._kill_at, time.monotonic() + self._order.settings.stop_grace_s)
        child.signal(number)

    def _conclude(self, status: int, exception: str | None, kernel_killed: bool) -> dict[str, JsonValue]:
        # By the clock, too: this worker may have stood still for longer than its lease lasts.
        if self._stopping is LeaseLost or self._running.is_lost():
            raise LeaseLost(f"job {self._order.job_id} is not run by this worker any more")
        if self._stopping is Cancelled:
            # Done before it heard of it: what it has published is what was to be kept, or more.
            if isinstance(self._outcome, Completed) and self._running.job.keep_checkpoint:
                raise Cancelled(self._outcome.result)
            raise Cancelled
        if isinstance(self._outcome, Completed):
            return self._outcome.result
        if isinstance(self._outcome, Failed):
            if self._outcome.code == OutOfMemory.code:
                raise OutOfMemory(self._outcome.message, self._micro_batch)
            raise self._outcome.as_error()
        if self._stopping is Interrupted or isinstance(self._outcome, Stopped):
            raise Interrupted
        if status == -signal.SIGKILL and kernel_killed:
            raise OutOfMemory(self._order.out_of_memory, self._micro_batch)
        how = _how_it_ended(self._order, status, exception)
        raise ProcessCrashed(how, code=f"{self._order.work}_crashed")


def _how_it_ended(order: Order, status: int, exception: str | None) -> str:
    if status == -signal.SIGKILL:
        # Our control group counts no kill for want of memory, but a limit above it may have been met.
        return (
            f"the {order.work} process was ended by SIGKILL; perhaps {order.out_of_memory}. See whether the"
            f" machine and its container have memory enough, and {SEE_LOG}"
        )
    if status < 0:
        return f"the {order.work} process was ended by {signal.Signals(-status).name}: {SEE_LOG}"
    detail = f" after {exception}" if exception else ""
    return f"the {order.work} process ended with exit status {status}{detail}: {SEE_LOG}"


def _threads(configured: int | None) -> int:
    return configured or len(os.sched_getaffinity(0))

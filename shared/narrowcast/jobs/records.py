"""What a job is, and which changes of it are legal."""

import time
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from narrowcast.errors import Conflict, NarrowcastError
from narrowcast.jobs.schedule import Schedule

RETRY_AFTER_S: Final = 10.0
"""What a job needs was away: time for it to come back before the next attempt."""
LONGEST_RETRY_S: Final = 300.0
"""The same in a long outage, which is asked about ever more seldom."""


class JobKind(StrEnum):
    """What a job does. The value is also the prefix of its id."""

    PREPROCESSING = "corpus"
    TRAINING = "ftjob"
    EVALUATION = "eval"
    EXPORT = "export"


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether nothing comes after it."""
        return self in {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}


_LEGAL: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED, JobStatus.FAILED}),
    # Back to queued: the worker was lost or asked to stop, and the job will be resumed.
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.PAUSED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


class LeaseLost(NarrowcastError):
    """The job is no longer this worker's: stop, and write nothing more."""

    code = "lease_lost"


class Lease(BaseModel):
    """Who runs the job, and until when that holds without renewal."""

    owner: str
    expires_at: float
    claimed_at: float | None = None
    """When the attempt began; None in records that do not say."""


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobEvent(BaseModel):
    """One entry of a job's log, shown to the user."""

    id: str = ""
    created_at: float = Field(default_factory=time.time)
    level: Literal["info", "warn", "error"] = "info"
    type: Literal["message", "metrics"] = "message"
    message: str
    data: dict[str, JsonValue] = {}


def nothing_kept(reason: JobError) -> JobEvent:
    """Return the event that says why a cancelled job's checkpoint was not kept, though its user wanted it."""
    return JobEvent(
        level="warn", message=f"no checkpoint was kept: {reason.message}", data={"code": reason.code}
    )


_ENDED: Final = {
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "been cancelled",
}


class Job(BaseModel):
    """A job's record. Changes are pure: each returns the record as it should become."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: JobKind
    tenant: str
    spec: dict[str, Any]
    """What to do; each kind has its own model for it. No patient text."""
    status: JobStatus = JobStatus.QUEUED
    created_at: float = Field(default_factory=time.time)
    queued_at: float = Field(default_factory=time.time)
    started_at: float | None = None
    finished_at: float | None = None
    attempt: int = 0
    """How many times a worker has started it, but for those that do not count (:meth:`released`)."""
    lost_attempts: tuple[float, ...] = ()
    """When those began whose workers were lost. One that has left no checkpoint behind died where it began:
    for want of memory, perhaps."""
    lease: Lease | None = None
    schedule: Schedule = Schedule()
    retry_at: float | None = None
    """Not to be started before this time again, because what it needs was away."""
    outage_since: float | None = None
    """When the first of a row of attempts was ended by an outage; see :meth:`bears_outage`."""
    keeps_turn: bool = False
    """It was begun and has lost its worker without its user's doing: it goes on with the turn that it had
    (:func:`.schedule.in_order`)."""
    pause_requested: bool = False
    cancel_requested: bool = False
    keep_checkpoint: bool = False
    """The cancelled job's newest checkpoint is wanted as its result; that takes a worker."""
    progress: dict[str, Any] = {}
    result: dict[str, Any] = {}
    error: JobError | None = None

    def _to(self, status: JobStatus, **changes: Any) -> "Job":
        if status not in _LEGAL[self.status]:
            raise Conflict(
                f"job {self.id} is {self.status} and cannot become {status}", code="illegal_transition"
            )
        return self.model_copy(update={"status": status, **changes})

    def due_at(self, now: float) -> float:
        """Return since when a queued job may be started, or, if later than ``now``, from when on."""
        # Whoever queued it may have a clock that is ahead of this one: nothing is queued later than now.
        again = max(min(self.queued_at, now), self.retry_at or 0.0)
        if self.cancel_requested:
            return again  # what is left to do takes a moment, at any hour
        schedule = self.schedule
        earliest = max(again, schedule.not_before or 0.0)
        if schedule.window is None:
            return earliest
        return max(earliest, schedule.window.opening(max(earliest, now)))

    def waits(self, now: float) -> bool:
        """Whether the job is queued and may be started."""
        return self.status is JobStatus.QUEUED and self.due_at(now) <= now

    def must_yield(self, now: float) -> bool:
        """Whether a running job has to stop for now: its user paused it, or its hours are over."""
        if self.cancel_requested:
            return False
        window = self.schedule.window
        return self.pause_requested or (window is not None and not window.is_open(now))

    def attempts_used_up(self, site_limit: int) -> bool:
        """Whether no other attempt may follow this one."""
        return self.attempt >= (self.schedule.max_attempts or site_limit)

    def bears_outage(self, now: float, patience_s: float) -> bool:
        """Whether an outage that ends an attempt now uses none up.

        For ``patience_s`` from the first of a row on it does not. The first one after that uses an attempt
        up, and ends the row, as an attempt does that ends in any other way. That an attempt went on for long
        is no proof that it had what it needs: some wait for minutes before they say that something is away.
        Nor may one go on for ever that brings a server down after each hour of work.
        """
        return now - (now if self.outage_since is None else self.outage_since) < patience_s

    def claimed(self, owner: str, now: float, lease_s: float) -> "Job":
        """Return the record as ``owner`` starts it.

        Raises:
            Conflict: it is not queued.
        """
        return self._to(
            JobStatus.RUNNING,
            attempt=self.attempt + 1,
            started_at=self.started_at or now,
            lease=Lease(owner=owner, expires_at=now + lease_s, claimed_at=now),
            retry_at=None,
            keeps_turn=False,
        )

    def check_owner(self, owner: str) -> Lease:
        """Check that ``owner`` runs the job; return its lease.

        Raises:
            LeaseLost: it does not, or not any more.
        """
        if self.status is not JobStatus.RUNNING or self.lease is None or self.lease.owner != owner:
            raise LeaseLost(f"job {self.id} is not run by this worker any more")
        return self.lease

    def renewed(self, owner: str, now: float, lease_s: float) -> "Job":
        """Return the record with the lease extended.

        Raises:
            LeaseLost: the job is another's.
        """
        lease = self.check_owner(owner).model_copy(update={"expires_at": now + lease_s})
        return self.model_copy(update={"lease": lease})

    def released(
        self,
        now: float,
        *,
        counted: bool = True,
        worker_lost: bool = False,
        retry_at: float | None = None,
        outage_since: float | None = None,
    ) -> "Job":
        """Return the record back in the queue, to be resumed by whoever takes it next.

        Where its user has asked for it meanwhile, it is paused or cancelled instead.

        Args:
            now: Unix time.
            counted: whether the attempt counts towards the limit; one that the operator, the user
                or the clock ended does not.
            worker_lost: whether its lease has run out.
            retry_at: when it may be started again; None: at once.
            outage_since: when the row of outages began that goes on; None: there is none.
        """
        lost = self.lost_attempts
        if worker_lost and self.lease is not None and self.lease.claimed_at is not None:
            lost = (*lost, self.lease.claimed_at)
        if self.pause_requested and not self.cancel_requested:
            return self._to(
                JobStatus.PAUSED,
                lease=None,
                lost_attempts=lost,
                pause_requested=False,
                attempt=self.attempt - 1,
                outage_since=None,
            )
        if self.cancel_requested and not self.keep_checkpoint:
            return self.finished(JobStatus.CANCELLED, now)
        window = self.schedule.window
        return self._to(
            JobStatus.QUEUED,
            lease=None,
            queued_at=now,
            attempt=self.attempt if counted else self.attempt - 1,
            lost_attempts=lost,
            retry_at=retry_at,
            outage_since=outage_since,
            # What no worker has come to work at has nothing to lose. And hours that end are its user's doing.
            keeps_turn=bool(self.progress) and (window is None or window.is_open(now)),
        )

    def released_by_outage(self, now: float) -> "Job":
        """As :meth:`released`, at no cost, to be started again the later the longer the outage lasts."""
        since = now if self.outage_since is None else self.outage_since
        wait_s = min(max(now - since, RETRY_AFTER_S), LONGEST_RETRY_S)
        return self.released(now, counted=False, retry_at=now + wait_s, outage_since=since)

    def pausing(self) -> "Job":
        """Return the record paused (if queued) or marked for its worker to stop (if running).

        Raises:
            Conflict: it is paused already, is being cancelled, or has ended.
        """
        if self.status is JobStatus.PAUSED or self.pause_requested:
            raise Conflict(f"job {self.id} is paused already", code="already_paused")
        if self.status.terminal:
            raise Conflict(f"job {self.id} has already {_ENDED[self.status]}", code="job_ended")
        if self.cancel_requested:
            raise Conflict(f"job {self.id} is being cancelled", code="job_cancelling")
        if self.status is JobStatus.QUEUED:
            return self._to(JobStatus.PAUSED, retry_at=None, outage_since=None, keeps_turn=False)
        return self.model_copy(update={"pause_requested": True})

    def resumed(self, now: float) -> "Job":
        """Return the paused record back in the queue: in its place by age, without the turn it had.

        Raises:
            Conflict: it is not paused.
        """
        if self.status is not JobStatus.PAUSED:
            state = "still running" if self.pause_requested else self.status
            raise Conflict(f"job {self.id} is not paused but {state}", code="not_paused")
        return self._to(JobStatus.QUEUED, queued_at=now)

    def finished(
        self,
        status: JobStatus,
        now: float,
        *,
        result: dict[str, Any] | None = None,
        error: JobError | None = None,
    ) -> "Job":
        """Return the record at its end."""
        if status is JobStatus.CANCELLED and not self.keep_checkpoint:
            result = None  # given up since its worker last heard of its user
        return self._to(
            status, lease=None, pause_requested=False, finished_at=now, result=result or {}, error=error
        )

    def cancellation_requested(self, now: float, *, keep_checkpoint: bool = False) -> "Job":
        """Return the record cancelled at once, or marked for its worker to stop.

        With ``keep_checkpoint`` a job that was started before goes to a worker once more.

        Raises:
            Conflict: the job has ended.
        """
        if self.status.terminal:
            raise Conflict(f"job {self.id} has already {_ENDED[self.status]}", code="job_ended")
        # A second request may give up what the first wanted kept.
        wanted = {"cancel_requested": True, "keep_checkpoint": keep_checkpoint}
        if self.status is JobStatus.RUNNING:
            return self.model_copy(update=wanted)
        if not keep_checkpoint or self.started_at is None:
            return self.finished(JobStatus.CANCELLED, now)
        queued = self if self.status is JobStatus.QUEUED else self._to(JobStatus.QUEUED, queued_at=now)
        return queued.model_copy(update={**wanted, "keeps_turn": True, "pause_requested": False})

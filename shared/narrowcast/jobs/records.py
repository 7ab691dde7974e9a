"""What a job is, and which changes of it are legal."""

import time
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from narrowcast.errors import Conflict, NarrowcastError


class JobKind(StrEnum):
    """What a job does. The value is also the prefix of its id."""

    PREPROCESSING = "corpus"
    TRAINING = "ftjob"
    EVALUATION = "eval"


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether nothing comes after it."""
        return self in {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}


_LEGAL: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.FAILED}),
    # Back to queued: the worker was lost or asked to stop, and the job will be resumed.
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}
    ),
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
    """How many times a worker has started it."""
    lease: Lease | None = None
    cancel_requested: bool = False
    progress: dict[str, Any] = {}
    result: dict[str, Any] = {}
    error: JobError | None = None

    def _to(self, status: JobStatus, **changes: Any) -> "Job":
        if status not in _LEGAL[self.status]:
            raise Conflict(
                f"job {self.id} is {self.status} and cannot become {status}", code="illegal_transition"
            )
        return self.model_copy(update={"status": status, **changes})

    def claimed(self, owner: str, now: float, lease_s: float) -> "Job":
        """Return the record as ``owner`` starts it.

        Raises:
            Conflict: it is not queued.
        """
        return self._to(
            JobStatus.RUNNING,
            attempt=self.attempt + 1,
            started_at=self.started_at or now,
            lease=Lease(owner=owner, expires_at=now + lease_s),
        )

    def check_owner(self, owner: str) -> None:
        """Check that ``owner`` runs the job.

        Raises:
            LeaseLost: it does not, or not any more.
        """
        if self.status is not JobStatus.RUNNING or self.lease is None or self.lease.owner != owner:
            raise LeaseLost(f"job {self.id} is not run by this worker any more")

    def renewed(self, owner: str, now: float, lease_s: float) -> "Job":
        """Return the record with the lease extended.

        Raises:
            LeaseLost: the job is another's.
        """
        self.check_owner(owner)
        return self.model_copy(update={"lease": Lease(owner=owner, expires_at=now + lease_s)})

    def released(self, now: float, *, counted: bool = True) -> "Job":
        """Return the record back in the queue, to be resumed by whoever takes it next.

        Args:
            now: Unix time.
            counted: whether the attempt counts towards the limit; one that the operator ended does not.
        """
        attempt = self.attempt if counted else self.attempt - 1
        return self._to(JobStatus.QUEUED, lease=None, queued_at=now, attempt=attempt)

    def finished(
        self,
        status: JobStatus,
        now: float,
        *,
        result: dict[str, Any] | None = None,
        error: JobError | None = None,
    ) -> "Job":
        """Return the record at its end."""
        return self._to(status, lease=None, finished_at=now, result=result or {}, error=error)

    def cancellation_requested(self, now: float) -> "Job":
        """Return the record cancelled (if queued) or marked for its worker to stop (if running).

        Raises:
            Conflict: the job has ended.
        """
        if self.status is JobStatus.QUEUED:
            return self.finished(JobStatus.CANCELLED, now)
        if self.status is JobStatus.RUNNING:
            return self.model_copy(update={"cancel_requested": True})
        raise Conflict(f"job {self.id} is already {self.status}", code="job_ended")

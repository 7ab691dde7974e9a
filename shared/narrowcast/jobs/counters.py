"""What happened to jobs, counted in Redis beside their records.

A count changes in the very transaction that changes the record. So it is exact however many
workers race for a job, and it outlives workers that live for one job only.
"""

from collections import Counter
from enum import StrEnum
from typing import Final

from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.metrics import code_label

KEY: Final = "nc:jobs:counters"
"""A hash of integers; a field is a counter's name and its labels, joined by slashes."""
DURATION_BOUNDS_S: Final = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14_400, 28_800, 43_200)
"""From a small corpus to a long training run of 12 h."""
INFINITE: Final = "+Inf"

ENDED: Final = "ended"
FAILURES: Final = "failures"
REQUEUED: Final = "requeued"
DURATIONS: Final = "durations"
DURATION_MS: Final = "duration_ms"
DOCUMENTS: Final = "documents"
READ: Final = "read"


class Requeue(StrEnum):
    """Why a running job went back to the queue."""

    WORKER_LOST = "worker_lost"
    INTERRUPTED = "interrupted"
    """The worker was told to stop."""
    UNAVAILABLE = "unavailable"
    """Something the job needs was away."""


def kind_label(kind: JobKind) -> str:
    """Return a job's kind in words; its value is an id's prefix."""
    return kind.name.lower()


def field(*parts: str) -> str:
    """Return the name of a counter's field."""
    return "/".join(parts)


def increments(before: Job, after: Job, requeue: Requeue | None = None) -> dict[str, int]:
    """Return by how much which fields grow as a record changes so.

    Args:
        before: the record as it is.
        after: the record as it becomes.
        requeue: why, if the job goes back to the queue.
    """
    if before.status is after.status:
        return {}
    kind = kind_label(after.kind)
    if after.status is JobStatus.QUEUED and requeue is not None:
        return {field(REQUEUED, kind, requeue): 1}
    if not after.status.terminal:
        return {}
    grown: Counter[str] = Counter({field(ENDED, kind, after.status): 1})
    if after.error is not None:
        grown[field(FAILURES, kind, code_label(after.error.code))] += 1
    if after.started_at is not None and after.finished_at is not None:
        seconds = max(after.finished_at - after.started_at, 0.0)
        grown[field(DURATIONS, kind, after.status, _bound(seconds))] += 1
        grown[field(DURATION_MS, kind, after.status)] += round(seconds * 1000)
    if after.kind is JobKind.PREPROCESSING and after.status is JobStatus.SUCCEEDED:
        grown[field(DOCUMENTS, READ)] += after.result.get("documents", {}).get(READ, 0)
        for rejected in after.result.get("rejected", []):
            grown[field(DOCUMENTS, code_label(rejected.get("code", "")))] += 1
    return dict(grown)


def _bound(seconds: float) -> str:
    return next((str(bound) for bound in DURATION_BOUNDS_S if seconds <= bound), INFINITE)

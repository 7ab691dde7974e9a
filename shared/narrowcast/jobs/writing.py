"""Where job records lie in Redis, and what is written with every change of one."""

import re
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from pydantic import ValidationError

from narrowcast import logs
from narrowcast.jobs import counters
from narrowcast.jobs.counters import Requeue
from narrowcast.jobs.records import Job, JobError, JobEvent, JobStatus, nothing_kept

_log = logs.get(__name__)
ACTIVE_KEY: Final = "nc:jobs:active"
"""A set of the ids of all jobs that have not ended."""
TO_ARCHIVE_KEY: Final = "nc:jobs:to-archive"
_MAX_EVENTS: Final = 20_000
"""The newest that a job keeps."""
_IDS_END: Final = 2**64
_EVENT_ID: Final = re.compile(r"^[0-9]{1,20}-[0-9]{1,20}\Z")

_REQUEUED: Final = {
    Requeue.WORKER_LOST: "the worker was lost; the job is queued",
    Requeue.INTERRUPTED: "interrupted; the job is queued",
    Requeue.UNAVAILABLE: "something it needs is away; the job is queued",
}


def record_key(job_id: str) -> str:
    """Return the key of a job's record."""
    return f"nc:job:{job_id}"


def events_key(job_id: str) -> str:
    """Return the key of a job's events, a stream."""
    return f"nc:job:{job_id}:events"


def turns_key(queue: str) -> str:
    """Return the key of a hash: when a job of each tenant was last taken in turn from a queue."""
    return f"nc:jobs:turns:{queue}"


def active(redis: Any) -> list[Job]:
    """Return every job that has not ended; ``redis`` is a client, or a pipeline that watches."""
    job_ids = list(redis.smembers(ACTIVE_KEY))
    # None: the job was forgotten between the two questions.
    raws = redis.mget([record_key(job_id) for job_id in job_ids]) if job_ids else []
    readable = []
    for job_id, raw in zip(job_ids, raws, strict=True):
        if raw is None:
            continue
        try:
            readable.append(Job.model_validate_json(raw))
        except ValidationError:
            # Written by a newer version, during an upgrade: it goes on with it. No reason to leave
            # all other jobs alone.
            _log.warning("job_record_not_understood", job_id=job_id)
    return readable


def add_event(redis: Any, job_id: str, event: JobEvent) -> None:
    """Append to a job's events, through a client or in a transaction."""
    redis.xadd(events_key(job_id), {"event": event.model_dump_json()}, maxlen=_MAX_EVENTS, approximate=True)


def event_of(entry_id: str, fields: dict[str, str]) -> JobEvent:
    """Return the event that an entry of the stream holds; its id is the entry's."""
    return JobEvent.model_validate_json(fields["event"]).model_copy(update={"id": entry_id})


def event_place(event_id: str) -> tuple[int, ...] | None:
    """Return what orders a job's events; None if no event's id can look like this."""
    if not _EVENT_ID.match(event_id):
        return None
    place = tuple(int(part) for part in event_id.split("-"))
    return place if max(place) < _IDS_END else None


def write(
    pipe: Any,
    before: Job,
    after: Job,
    requeue: Requeue | None = None,
    away: JobError | None = None,
) -> None:
    """Put into a transaction all that a change of a record takes.

    A change of status is an event in the same transaction: who follows the events learns of a
    job's end by them.

    Args:
        pipe: the transaction.
        before: the record as it is.
        after: the record as it becomes.
        requeue: why, if the job goes back to the queue.
        away: what it waits for there.
    """
    if after == before:
        return
    pipe.set(record_key(after.id), after.model_dump_json(), keepttl=True)
    if after.status.terminal:
        pipe.srem(ACTIVE_KEY, after.id)
        pipe.sadd(TO_ARCHIVE_KEY, after.id)
    for name, growth in counters.increments(before, after, requeue).items():
        pipe.hincrby(counters.KEY, name, growth)
    if after.status is not before.status:
        if requeue is Requeue.WORKER_LOST and after.status is JobStatus.CANCELLED and after.keep_checkpoint:
            lost = JobError(code=requeue.value, message=workers_lost(after.attempt))
            add_event(pipe, after.id, nothing_kept(lost))
        add_event(pipe, after.id, _status_event(before, after, requeue, away))


def workers_lost(attempts: int) -> str:
    """Return why a job ended that no worker brought to its end."""
    return f"the worker was lost in each of {attempts} attempts"


def _hours_begin(job: Job) -> str | None:
    """Return when the hours of a job that is queued begin, by its own clock; None if it is within them."""
    window, now = job.schedule.window, job.queued_at
    if window is None or now is None or window.is_open(now):
        return None
    begins = datetime.fromtimestamp(window.opening(now), ZoneInfo(window.time_zone))
    return begins.isoformat(timespec="minutes")


def _status_event(before: Job, after: Job, requeue: Requeue | None, away: JobError | None) -> JobEvent:
    level, data = "info", {"status": after.status.value}
    if after.status is JobStatus.RUNNING:
        message = f"a worker has started the job, attempt {after.attempt}"
    elif after.status is JobStatus.QUEUED:
        message = (
            _REQUEUED[requeue] if requeue is not None else f"no longer {before.status}; the job is queued"
        )
        if requeue is Requeue.INTERRUPTED and (begins := _hours_begin(after)):
            message = f"its hours are over; the job is queued, and goes on from {begins}"
        if away is not None:
            message, data["code"] = f"{message}: {away.message}", away.code
        level = "warn" if requeue in {Requeue.WORKER_LOST, Requeue.UNAVAILABLE} else "info"
    elif after.error is not None:
        message, level = f"the job has failed: {after.error.message}", "error"
    else:
        message = (
            f"the job is {after.status}"
            if after.status is not JobStatus.SUCCEEDED
            else "the job has succeeded"
        )
    return JobEvent.model_validate({"message": message, "level": level, "data": data})

"""Every change of a job: by its user, by the worker that runs it, by a reaper.

Every change of a record is a compare-and-swap (WATCH/MULTI) around a pure function of
:mod:`narrowcast.jobs.records`, so two workers, a cancelling user and a reaper can meet on
one job and exactly one wins each step.
"""

import time
from collections.abc import Callable
from typing import Any

import redis
from kombu.exceptions import KombuError
from pydantic import JsonValue, ValidationError
from redis.exceptions import WatchError

from narrowcast import logs
from narrowcast.errors import Conflict, NotFound
from narrowcast.jobs.counters import Requeue
from narrowcast.jobs.line import WaitingLine
from narrowcast.jobs.once import REMEMBERED_S, Once
from narrowcast.jobs.queue import IN_LINE, JobQueue
from narrowcast.jobs.reading import (
    TENANTS_KEY,
    JobReader,
    archive_key,
    events_archive_key,
    events_to_archive,
    index_key,
)
from narrowcast.jobs.records import RETRY_AFTER_S, Job, JobError, JobEvent, JobKind, JobStatus
from narrowcast.jobs.writing import (
    ACTIVE_KEY,
    TO_ARCHIVE_KEY,
    add_event,
    events_key,
    record_key,
    workers_lost,
    write,
)
from narrowcast.settings import JobSettings
from narrowcast.storage import Bucket

_log = logs.get(__name__)
_ARCHIVE_TYPE = "application/json"


class JobStore(JobReader):
    """The job records. Safe to share between threads."""

    def __init__(self, client: redis.Redis, archive: Bucket, queue: JobQueue, settings: JobSettings) -> None:
        super().__init__(client, archive)
        self._queue = queue
        self._settings = settings
        self._line = WaitingLine(client, queue, settings)

    # -- a user's side -----------------------------------------------------------------

    def submit(self, job: Job, once: Once | None = None, event: JobEvent | None = None) -> Job:
        """Record a new job, then hint to a worker that it is there.

        Args:
            job: the new one.
            once: makes it the request's only one.
            event: the job's first.

        Returns:
            The job; or the one that the same request made before or meanwhile, and ``job`` is not recorded.

        Raises:
            InvalidInput: see :meth:`submitted`.
        """
        while True:
            with self._redis.pipeline(transaction=True) as pipe:
                if once is not None:
                    key = once.redis_key(job.kind, job.tenant)
                    pipe.watch(key)
                    if (earlier := self.submitted(job.kind, job.tenant, once)) is not None:
                        return earlier
                    pipe.multi()
                    pipe.set(key, once.note(job.id), ex=REMEMBERED_S)
                pipe.set(record_key(job.id), job.model_dump_json())
                pipe.zadd(index_key(job.kind, job.tenant), {job.id: job.created_at})
                pipe.hset(TENANTS_KEY, job.id, job.tenant)
                pipe.sadd(ACTIVE_KEY, job.id)
                if event is not None:
                    add_event(pipe, job.id, event)
                try:
                    pipe.execute()
                except WatchError:
                    continue
            self._hint(job)
            return job

    def submitted(self, kind: JobKind, tenant: str, once: Once | None) -> Job | None:
        """Return the job that the same request has made already; None if it has not, or the job is deleted.

        To be asked before the request is checked: what it named may be gone since.

        Raises:
            InvalidInput: ``idempotency_key_reused``, its key belongs to another request.
        """
        note = None if once is None else self._redis.get(once.redis_key(kind, tenant))
        if once is None or note is None:
            return None
        try:
            return self.get(once.job_id(note), tenant=tenant, kind=kind)
        except NotFound:
            return None

    def request_cancel(self, job_id: str, *, keep_checkpoint: bool = False) -> Job:
        """Cancel a queued or paused job at once, ask the worker of a running one to stop.

        Args:
            job_id: its id.
            keep_checkpoint: the newest checkpoint is wanted as the job's result. A job that has
                one is cancelled by a worker then, also if it is queued or paused.

        Raises:
            Conflict: the job has ended.
        """

        def change(job: Job) -> Job:
            return job.cancellation_requested(time.time(), keep_checkpoint=keep_checkpoint)

        job = self._change(job_id, change)
        self._hint(job)
        self._balance(job.kind)
        return job

    def pause(self, job_id: str) -> Job:
        """Take a queued job out of the queue, ask the worker of a running one to stop for now.

        Raises:
            Conflict: the job is paused or being cancelled already, or has ended.
        """
        job = self._change(job_id, lambda job: job.pausing())
        self._balance(job.kind)
        return job

    def resume(self, job_id: str) -> Job:
        """Put a paused job back into the queue.

        Raises:
            Conflict: the job is not paused.
        """
        job = self._change(job_id, lambda job: job.resumed(time.time()))
        self._hint(job)
        return job

    def forget(self, job_id: str) -> None:
        """Make an ended job unknown. Its archived record stays in S3, for those who keep the books.

        Raises:
            Conflict: it has not ended.
            NotFound: no such job.
        """
        job = self.get(job_id)
        if not job.status.terminal:
            raise Conflict(f"job {job_id} is {job.status}", code="job_not_ended")
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.zrem(index_key(job.kind, job.tenant), job_id)
            pipe.hdel(TENANTS_KEY, job_id)
            pipe.srem(TO_ARCHIVE_KEY, job_id)
            pipe.delete(record_key(job_id), events_key(job_id))
            pipe.execute()

    # -- a worker's side ---------------------------------------------------------------

    def claim(self, job_id: str, owner: str) -> Job:
        """Take a queued job.

        Raises:
            Conflict: somebody else has it, or it has ended.
            NotFound: no such job.
        """
        return self._change(job_id, lambda job: job.claimed(owner, time.time(), self._settings.lease_s))

    def claim_next(self, kind: JobKind, owner: str) -> Job | None:
        """Take the first job of the line that jobs of ``kind`` wait in; None if none may start now."""
        return self._line.take(kind, owner)

    def renew(self, job_id: str, owner: str, progress: dict[str, Any] | None = None) -> Job:
        """Extend the lease, and store how far the job is if that is given.

        Raises:
            LeaseLost: the job is another's now.
        """

        def change(job: Job) -> Job:
            return _come_so_far(job, progress).renewed(owner, time.time(), self._settings.lease_s)

        return self._change(job_id, change)

    def release(
        self,
        job_id: str,
        owner: str,
        *,
        away: JobError | None = None,
        borne: bool = False,
        progress: dict[str, Any] | None = None,
    ) -> Job:
        """Give a running job back to the queue, or pause it if that was asked for.

        Args:
            job_id: its id.
            owner: who runs it.
            away: what was away: it is given time to come back, and the message is left to the reaper.
                None: the worker was told to stop, so another may take the job at once and the
                attempt does not count.
            borne: that was an outage, which does not count either (:meth:`Job.bears_outage`).
            progress: how far the job came, if that is to be stored.

        Raises:
            LeaseLost: the job is another's now.
        """

        def change(job: Job) -> Job:
            job.check_owner(owner)
            job, now = _come_so_far(job, progress), time.time()
            if away is None:
                return job.released(now, counted=False)
            return job.released_by_outage(now) if borne else job.released(now, retry_at=now + RETRY_AFTER_S)

        job = self._change(job_id, change, Requeue.INTERRUPTED if away is None else Requeue.UNAVAILABLE, away)
        self._hint(job)
        return job

    def finish(
        self,
        job_id: str,
        owner: str,
        status: JobStatus,
        *,
        result: dict[str, Any] | None = None,
        error: JobError | None = None,
        progress: dict[str, Any] | None = None,
    ) -> Job:
        """End a running job, and store how far it came if that is given.

        Raises:
            LeaseLost: the job is another's now.
        """

        def change(job: Job) -> Job:
            job.check_owner(owner)
            return _come_so_far(job, progress).finished(status, time.time(), result=result, error=error)

        return self._change(job_id, change)

    def add_event(
        self,
        job_id: str,
        message: str,
        *,
        level: str = "info",
        type: str = "message",  # noqa: A002 - OpenAI's name
        data: dict[str, JsonValue] | None = None,
    ) -> None:
        """Append to the job's events."""
        event = JobEvent.model_validate(
            {"message": message, "level": level, "type": type, "data": data or {}}
        )
        add_event(self._redis, job_id, event)

    # -- the reaper's side -------------------------------------------------------------

    def reap(self, job_id: str, now: float) -> Job | None:
        """Re-queue, pause or end a job whose lease has run out; return it if that was so."""
        reaped = False

        def change(job: Job) -> Job:
            nonlocal reaped
            reaped = job.lease is not None and job.lease.expires_at < now
            if not reaped:
                return job
            used_up = job.attempts_used_up(self._settings.max_attempts)
            if job.cancel_requested and (used_up or not job.keep_checkpoint):
                return job.finished(JobStatus.CANCELLED, now)
            if used_up and not job.pause_requested:
                message = (
                    f"{workers_lost(job.attempt)}: see whether its machine or container was ended, for want"
                    " of memory perhaps, then submit the job again"
                )
                return job.finished(
                    JobStatus.FAILED, now, error=JobError(code="worker_lost", message=message)
                )
            return job.released(now, worker_lost=True)

        job = self._change(job_id, change, Requeue.WORKER_LOST)
        if not reaped:
            return None
        self._hint(job)
        return job

    def balance_hints(self, kind: JobKind) -> None:
        """Make the queue that a kind waits in hold one message for each job that may start now."""
        self._line.balance(kind)

    def archive_ended(self) -> int:
        """Copy ended jobs' records to S3, let Redis forget them later; return how many.

        Raises:
            Unavailable: the object store does not answer; nothing is lost, call again.
        """
        done = 0
        for job_id in self._redis.smembers(TO_ARCHIVE_KEY):
            try:
                job = self.get(job_id)
            except NotFound:
                self._redis.srem(TO_ARCHIVE_KEY, job_id)
                continue
            except ValidationError:  # see writing.active
                _log.warning("job_record_not_understood", job_id=job_id)
                continue
            events = events_to_archive(self.events(job_id, job.tenant))
            self._archive.put(events_archive_key(job.tenant, job_id), events, _ARCHIVE_TYPE)
            self._archive.put(archive_key(job.tenant, job_id), job.model_dump_json().encode(), _ARCHIVE_TYPE)
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.srem(TO_ARCHIVE_KEY, job_id)
                pipe.expire(record_key(job_id), self._settings.record_ttl_s)
                pipe.expire(events_key(job_id), self._settings.record_ttl_s)
                pipe.execute()
            done += 1
        return done

    # ----------------------------------------------------------------------------------

    def _hint(self, job: Job) -> None:
        if not job.waits(time.time()):
            return  # when its time has come, a reaper does
        try:
            self._queue.send(job)
        except (KombuError, redis.RedisError, OSError):
            # The record is written, so the job is accepted: the reaper sends the message later.
            _log.warning("job_message_not_sent", job_id=job.id, exc_info=True)

    def _balance(self, kind: JobKind) -> None:
        """Take back the message of a job that has left the line: a trainer may be started for it."""
        if kind not in IN_LINE:
            return
        try:
            self._line.balance(kind)
        except (KombuError, redis.RedisError, OSError):
            _log.warning("job_messages_not_balanced", exc_info=True)  # a reaper does it

    def _change(
        self,
        job_id: str,
        change: Callable[[Job], Job],
        requeue: Requeue | None = None,
        away: JobError | None = None,
    ) -> Job:
        key = record_key(job_id)
        changed: Job | None = None

        def transaction(pipe: Any) -> None:
            nonlocal changed
            raw = pipe.get(key)
            # An archived one has ended, which its change then says.
            job = self.get(job_id) if raw is None else Job.model_validate_json(raw)
            changed = change(job)
            pipe.multi()
            write(pipe, job, changed, requeue, away)

        self._redis.transaction(transaction, key)
        assert changed is not None  # noqa: S101 - transaction() ran or raised
        return changed


def _come_so_far(job: Job, progress: dict[str, Any] | None) -> Job:
    return job if progress is None else job.model_copy(update={"progress": progress})

"""One job, run by one worker under a lease."""

import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import redis
from pydantic import JsonValue

from narrowcast import logs
from narrowcast.errors import Conflict, NarrowcastError, NotFound, Outage, Unavailable
from narrowcast.jobs.records import Job, JobError, JobKind, JobStatus, LeaseLost, nothing_kept
from narrowcast.jobs.store import JobStore
from narrowcast.settings import JobSettings

_log = logs.get(__name__)
_RENEWALS_PER_LEASE = 4
_PROGRESS_EVERY_S = 1.0
_AGAIN_S = 0.5
_STORE_AWAY: Final = JobError(
    code="job_store_unavailable", message="Redis, where jobs are kept, did not answer or refused to write"
)
_STORE_UNAVAILABLE: Final = JobError(
    code=_STORE_AWAY.code,
    message=f"{_STORE_AWAY.message}: see whether it is up and has memory and disk left, then submit the job"
    " again",
)
_MAY_PASS: Final = (Unavailable, redis.RedisError)
_OUTAGES: Final = (Outage, redis.RedisError)


class Cancelled(Exception):
    """The user asked for the job to stop; ``result`` is what was kept of it."""

    def __init__(self, result: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.result = result


class Interrupted(Exception):
    """The worker, or the job for now, is asked to stop; the job will be resumed."""


class RunningJob:
    """What a job's code sees of its job: report progress, add events, notice that it must stop."""

    def __init__(
        self, store: JobStore, job: Job, owner: str, should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        self._store = store
        self._owner = owner
        self._worker_stops = should_stop
        self._lock = threading.Lock()
        self._unsent: deque[dict[str, Any]] = deque()
        self._sending = threading.Lock()
        self._renewing = threading.Lock()
        self._progress: dict[str, Any] | None = None
        self._reported_at = 0.0
        self.job = job
        self.lost = threading.Event()
        """Set when the lease is gone: another worker may have the job."""
        self.cancelled = threading.Event()
        """Set when the user asked for it to stop."""
        if job.cancel_requested:
            self.cancelled.set()

    def should_stop(self) -> bool:
        """Whether the job has to stop for now: its worker stops, it was paused, its hours are over."""
        return self._worker_stops() or self.job.must_yield(time.time())

    def is_lost(self) -> bool:
        """Whether the lease is gone, by the clock too: while Redis is away nobody else says so."""
        lease = self.job.lease
        if lease is not None and lease.expires_at < time.time():
            self.lost.set()
        return self.lost.is_set()

    def check(self, *, although_cancelled: bool = False) -> None:
        """Raise if the job must stop.

        Args:
            although_cancelled: it goes on, to keep what it has made.

        Raises:
            LeaseLost: it is another worker's.
            Cancelled: the user wants it to stop.
            Interrupted: it has to stop for now.
        """
        if self.is_lost():
            raise LeaseLost(f"job {self.job.id} is not run by this worker any more")
        if self.cancelled.is_set() and not although_cancelled:
            raise Cancelled
        if self.should_stop():
            raise Interrupted

    def progress(self, **progress: Any) -> None:
        """Store how far the job is, at most once a second; raises like :meth:`check`.

        Also then it is kept, to be stored when the job is left.
        """
        with self._lock:
            self._progress = progress
            due = time.monotonic() - self._reported_at >= _PROGRESS_EVERY_S
        self.check()
        if due:
            self.renew()

    @property
    def last_progress(self) -> dict[str, Any] | None:
        """What was reported last, stored or not yet; None if nothing was."""
        with self._lock:
            return self._progress

    def event(
        self,
        message: str,
        *,
        level: str = "info",
        type: str = "message",  # noqa: A002 - OpenAI's name
        data: dict[str, JsonValue] | None = None,
    ) -> None:
        """Append to the job's events: now, or when Redis takes them again, in the order they were said."""
        waits = bool(self._unsent)
        self._unsent.append({"message": message, "level": level, "type": type, "data": data})
        if waits:
            return  # behind others, which a renewal sends: not each event is to wait for a Redis that hangs
        try:
            self.send_events()
        except redis.RedisError:
            _log.warning("job_event_kept", exc_info=True)

    def send_events(self) -> None:
        """Send the events that Redis has not taken yet; once the lease is lost, none.

        Raises:
            redis.RedisError: it does not take them now either. None is lost.
        """
        with self._sending:
            while self._unsent and not self.is_lost():
                event = self._unsent.popleft()
                try:
                    self._store.add_event(self.job.id, **event)
                except redis.RedisError:
                    self._unsent.appendleft(event)
                    raise

    def renew(self) -> None:
        """Extend the lease and learn whether the job is to stop; nothing while another thread does so."""
        # Of two answers that meet the older one might be kept: without what the user has asked for since.
        if not self._renewing.acquire(blocking=False):
            return
        try:
            self._renew()
        finally:
            self._renewing.release()

    def _renew(self) -> None:
        with self._lock:
            progress, self._reported_at = self._progress, time.monotonic()
        try:
            self.job = self._store.renew(self.job.id, self._owner, progress)
        except (LeaseLost, NotFound):
            self.lost.set()
            return
        except redis.RedisError:
            # Redis may be back before the lease runs out. If not, the job is not ours any more
            # and whoever runs it must find nobody else writing.
            self.is_lost()
            return
        if self.job.cancel_requested:
            self.cancelled.set()
        with suppress(redis.RedisError):
            self.send_events()


Handler = Callable[[RunningJob], dict[str, Any]]


def worker_name() -> str:
    """Return a name for this process's claim on one job, never used twice."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def run_job(
    store: JobStore,
    settings: JobSettings,
    job_id: str,
    handler: Handler,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Claim the job, run ``handler`` while a thread renews the lease, and write down how it ended.

    ``handler`` returns the job's result. A :class:`NarrowcastError` from it fails the job with
    that reason; :class:`Unavailable`, :class:`Interrupted` and Redis' own errors give it back to the
    queue, unless :func:`ends_job`; anything else fails it as ``internal_error``, with the details in the
    log only.
    """
    owner = worker_name()
    try:
        job = store.claim(job_id, owner)
    except (Conflict, NotFound):
        _log.info("job_not_claimable", job_id=job_id)
        return
    _run_claimed(store, settings, job, owner, handler, should_stop)


def run_next_job(
    store: JobStore,
    settings: JobSettings,
    kind: JobKind,
    handler: Handler,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """As :func:`run_job`, for the first job in the line that ``kind`` waits in; nothing if there is none."""
    owner = worker_name()
    job = store.claim_next(kind, owner)
    if job is None:
        _log.info("no_job_may_start")
        return
    _run_claimed(store, settings, job, owner, handler, should_stop)


def _run_claimed(
    store: JobStore,
    settings: JobSettings,
    job: Job,
    owner: str,
    handler: Handler,
    should_stop: Callable[[], bool],
) -> None:
    with logs.bound(job_id=job.id):
        running = RunningJob(store, job, owner, should_stop)
        stop = threading.Event()
        renewer = threading.Thread(
            target=_renew_until, args=(running, stop, settings.lease_s / _RENEWALS_PER_LEASE), daemon=True
        )
        renewer.start()
        _log.info("job_started", kind=job.kind, attempt=job.attempt)
        try:
            _run(store, settings, running, owner, handler)
        except LeaseLost:
            _log.warning("lease_lost")
        finally:
            stop.set()
            renewer.join()


def _renew_until(running: RunningJob, stop: threading.Event, every_s: float) -> None:
    while not stop.wait(every_s):
        running.renew()


def ends_job(job: Job, error: Exception, settings: JobSettings, now: float) -> bool:
    """Whether a running job ends with what its handler raises: no other attempt follows, to resume it."""
    if isinstance(error, Interrupted):
        return False
    if not isinstance(error, _MAY_PASS):
        return True
    return job.attempts_used_up(settings.max_attempts) and not _is_borne(job, error, settings, now)


def _is_borne(job: Job, error: Exception, settings: JobSettings, now: float) -> bool:
    return isinstance(error, _OUTAGES) and job.bears_outage(now, settings.outage_patience_s)


def _run(store: JobStore, settings: JobSettings, running: RunningJob, owner: str, handler: Handler) -> None:
    try:
        result = handler(running)
    except LeaseLost:
        raise
    except Cancelled as cancelled:
        _finish(store, running, owner, JobStatus.CANCELLED, result=cancelled.result)
        _log.info("job_cancelled")
    except Exception as error:  # noqa: BLE001 - a job must never hang in running
        now = time.time()
        if ends_job(running.job, error, settings, now):
            _fail(store, running, owner, error)
        else:
            _release(store, running, owner, error, borne=_is_borne(running.job, error, settings, now))
    else:
        _finish(store, running, owner, JobStatus.SUCCEEDED, result=result)
        _log.info("job_succeeded")


def _release(store: JobStore, running: RunningJob, owner: str, error: Exception, *, borne: bool) -> None:
    _log.warning("job_released", exc_info=error)
    job_id, progress = running.job.id, running.last_progress
    away = None if isinstance(error, Interrupted) else _what_is_away(error)
    _insist(running, lambda: store.release(job_id, owner, away=away, borne=borne, progress=progress))


def _what_is_away(error: Exception) -> JobError:
    return _STORE_AWAY if isinstance(error, redis.RedisError) else _reason(error)


def _fail(store: JobStore, running: RunningJob, owner: str, error: Exception) -> None:
    _log.error("job_failed", exc_info=error)
    reason = _reason(error)
    if running.cancelled.is_set():
        # Its user wanted it to end, and so it has, whatever went wrong on the way.
        if running.job.keep_checkpoint:
            nothing = nothing_kept(reason)
            running.event(nothing.message, level=nothing.level, data=nothing.data)
        _finish(store, running, owner, JobStatus.CANCELLED)
        return
    _finish(store, running, owner, JobStatus.FAILED, error=reason)


def _reason(error: Exception) -> JobError:
    if isinstance(error, NarrowcastError):
        return JobError(code=error.code, message=error.message, param=error.param)
    if isinstance(error, redis.RedisError):
        return _STORE_UNAVAILABLE
    message = f"an internal error ({type(error).__name__}); the log has the details under this job id"
    return JobError(code="internal_error", message=message)


def _finish(store: JobStore, running: RunningJob, owner: str, status: JobStatus, **outcome: Any) -> None:
    progress = running.last_progress
    _insist(running, lambda: store.finish(running.job.id, owner, status, progress=progress, **outcome))


def _insist(running: RunningJob, write: Callable[[], object]) -> None:
    """Write how a job ended, for now or for good, also where Redis is away or refuses for a while.

    As long as the lease lasts nobody else touches the job, and what was done is not undone. What the
    job has said goes first: who follows its events takes none after its end.
    """
    while True:
        try:
            running.send_events()
            write()
            return
        except redis.RedisError:
            if running.is_lost():
                raise LeaseLost(f"job {running.job.id} could not be ended before its lease was") from None
            time.sleep(_AGAIN_S)

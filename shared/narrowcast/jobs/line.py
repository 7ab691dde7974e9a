"""The line of jobs that wait for a worker: who is next, and how many messages say so.

A message is a permission to take one job, not the job: a worker that gets any of them takes the
job that is first in line. So a queue's length is the number of jobs that wait and may start now,
which is what an autoscaler reads; who is paused, or may not start yet, has no message.
"""

import secrets
import time
from typing import Any, Final

import redis
from redis.exceptions import WatchError

from narrowcast.jobs.queue import IN_LINE, QUEUES, JobQueue, in_same_queue
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.jobs.schedule import in_order
from narrowcast.jobs.writing import active, record_key, turns_key, write
from narrowcast.settings import JobSettings

_MESSAGE_GRACE_S: Final = 10.0
"""Who queues a job sends its message, and who takes a message claims a job, within moments; after
this long something was lost."""
_BALANCING_S: Final = 30


class WaitingLine:
    """The jobs of one Redis. Safe to share between threads."""

    def __init__(self, client: redis.Redis, queue: JobQueue, settings: JobSettings) -> None:
        self._redis: Any = client
        self._queue = queue
        self._settings = settings

    def take(self, kind: JobKind, owner: str) -> Job | None:
        """Claim the first job of the line that jobs of ``kind`` wait in; None if none may start now.

        It may be of another kind that waits in the same queue. Two workers never take one job, nor do
        both of them decide by the same tenant's turn.
        """
        while True:
            with self._redis.pipeline(transaction=True) as pipe:
                try:
                    return self._take(pipe, kind, owner)
                except WatchError:
                    continue  # another worker took a turn, or the job has changed: look again

    def _take(self, pipe: Any, kind: JobKind, owner: str) -> Job | None:
        turns = turns_key(QUEUES[kind])
        pipe.watch(turns)
        last = {tenant: float(at) for tenant, at in pipe.hgetall(turns).items()}
        now = time.time()
        jobs = [job for job in active(pipe) if in_same_queue(job.kind, kind)]
        running = [job for job in jobs if job.status is JobStatus.RUNNING]
        line = in_order([job for job in jobs if job.waits(now)], running, last)
        if not line:
            return None
        key = record_key(line[0].id)
        pipe.watch(key)
        raw = pipe.get(key)
        if raw is None or (job := Job.model_validate_json(raw)) != line[0]:
            raise WatchError
        claimed = job.claimed(owner, now, self._settings.lease_s)
        pipe.multi()
        write(pipe, job, claimed)
        # Also what goes on with a turn it has had: it takes the worker from the others again.
        pipe.hset(turns, job.tenant, now)
        pipe.execute()
        return claimed

    def balance(self, kind: JobKind) -> None:
        """Make the queue of ``kind`` hold one message for each job that waits and may start now.

        Messages that are missing were lost, or belong to jobs whose time has come; those that are
        too many belonged to jobs paused or cancelled since, and are taken back where any message
        will do.
        """
        lock, token = f"nc:jobs:balancing:{QUEUES[kind]}", secrets.token_hex(8)
        # Of several reapers that see the same gap one fills it.
        if not self._redis.set(lock, token, nx=True, ex=_BALANCING_S):
            return
        try:
            before = self._queue.depth(kind)
            now = time.time()
            waiting = [job for job in active(self._redis) if in_same_queue(job.kind, kind) and job.waits(now)]
            depth = self._queue.depth(kind)
            overdue = [job for job in waiting if message_lost(job, now)]
            for job in overdue[depth:] if kind in IN_LINE else _likeliest(overdue, len(waiting) - depth, now):
                self._queue.send(job)
            # Jobs come and are taken meanwhile: only messages that were too many all the while are.
            too_many = min(before, depth) - len(waiting)
            if kind in IN_LINE and too_many > 0:
                self._queue.drop(kind, too_many)
        finally:
            if self._redis.get(lock) == token:
                self._redis.delete(lock)


def _likeliest(overdue: list[Job], missing: int, now: float) -> list[Job]:
    """Return jobs that may have lost their messages, which name them.

    A queue's messages are taken in the order they were sent, so it is those that are due longest.
    A guess that is wrong costs nothing: of two messages one finds its job claimed.
    """
    return sorted(overdue, key=lambda job: job.due_at(now))[: max(missing, 0)]


def message_lost(job: Job, now: float) -> bool:
    """Whether a waiting job's message should have led to a claim by now, or was never sent."""
    due = job.due_at(now)
    # Due later than queued: nobody but a reaper sends its message.
    return due > job.queued_at or due + _MESSAGE_GRACE_S < now

"""Job records, events and indexes as they are read: live ones from Redis, archived ones from S3."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import redis
from pydantic import TypeAdapter, ValidationError

from narrowcast import ids, logs
from narrowcast.errors import NotFound
from narrowcast.jobs.records import Job, JobEvent, JobKind
from narrowcast.jobs.writing import ACTIVE_KEY, event_of, event_place, events_key, record_key
from narrowcast.paging import page_of
from narrowcast.storage import Bucket

_log = logs.get(__name__)
TENANTS_KEY: Final = "nc:jobs:tenants"
"""A hash: whose each job is, also after Redis has forgotten its record."""


_EVENTS: Final = TypeAdapter(list[JobEvent])
_CACHED_EVENTS: Final = 2
"""Archived jobs whose events are kept in memory, up to 35 MB each: a client reads them page by page."""


class JobReader:
    """The job records, unchanged. Safe to share between threads."""

    def __init__(self, client: redis.Redis, archive: Bucket) -> None:
        # redis-py types every answer as "bytes or str, or an awaitable of them"; ours decodes and is sync.
        self._redis: Any = client
        self._archive = archive

        @lru_cache(maxsize=_CACHED_EVENTS)
        def archived_events(tenant: str, job_id: str) -> list[JobEvent]:
            return _EVENTS.validate_json(archive.get(events_archive_key(tenant, job_id)))

        self._archived_events = archived_events

    def get(self, job_id: str, *, tenant: str | None = None, kind: JobKind | None = None) -> Job:
        """Return a job, live or archived.

        Args:
            job_id: its id.
            tenant: if given, a job of another tenant does not exist.
            kind: if given, a job of another kind does not exist.

        Raises:
            NotFound: no such job.
        """
        raw = self._redis.get(record_key(job_id))
        if raw is not None:
            job = Job.model_validate_json(raw)
        else:
            owner = self._redis.hget(TENANTS_KEY, job_id)
            if owner is None:
                raise no_job(job_id)
            job = Job.model_validate_json(self._archive.get(archive_key(owner, job_id)))
        if (tenant is not None and job.tenant != tenant) or (kind is not None and job.kind is not kind):
            raise no_job(job_id)
        return job

    def page(
        self, kind: JobKind, tenant: str, *, after: str | None = None, limit: int = 20
    ) -> tuple[list[Job], bool]:
        """Return up to ``limit`` jobs after job ``after``, newest first; and whether more follow.

        A record that cannot be read, or is gone, is left out: the others are no less there.
        """
        index = index_key(kind, tenant)
        start = 0
        if after is not None:
            rank = self._redis.zrevrank(index, after)
            if rank is None:
                raise no_job(after, param="after")
            start = int(rank) + 1
        jobs: list[Job] = []
        while job_ids := self._redis.zrevrange(index, start, start + limit):
            for job_id in job_ids:
                if len(jobs) == limit:
                    return jobs, True
                if (job := self._readable(job_id)) is not None:
                    jobs.append(job)
            start += len(job_ids)
        return jobs, False

    def _readable(self, job_id: str) -> Job | None:
        try:
            return self.get(job_id)
        except NotFound:
            _log.warning("job_record_missing", job_id=job_id)
        except ValidationError:  # see writing.active
            _log.warning("job_record_not_understood", job_id=job_id)
        return None

    def events(self, job_id: str, tenant: str) -> list[JobEvent]:
        """Return a job's events, oldest first."""
        entries = self._redis.xrange(events_key(job_id))
        if not entries and not self._redis.exists(record_key(job_id)):
            return self._archived_events(tenant, job_id)
        return [event_of(entry_id, fields) for entry_id, fields in entries]

    def events_page(
        self, job_id: str, tenant: str, *, after: str | None = None, limit: int = 20
    ) -> tuple[list[JobEvent], bool]:
        """Return up to ``limit`` events older than event ``after``, newest first; and whether more follow.

        Raises:
            NotFound: no event ``after``.
        """
        key = events_key(job_id)
        if after is not None and event_place(after) is None:
            raise NotFound("no such event", param="after")
        if not self._redis.exists(key, record_key(job_id)):
            return page_of(self._archived_events(tenant, job_id)[::-1], after, limit, kind="event")
        if after is not None and not self._redis.xrange(key, after, after):
            raise NotFound("no such event", param="after")
        newest = "+" if after is None else f"({after}"
        entries = self._redis.xrevrange(key, newest, "-", count=limit + 1)
        return [event_of(entry_id, fields) for entry_id, fields in entries[:limit]], len(entries) > limit

    def active(self) -> Iterator[Job]:
        """Yield every job that has not ended."""
        for job_id in self._redis.smembers(ACTIVE_KEY):
            try:
                yield self.get(job_id)
            except NotFound:
                self._redis.srem(ACTIVE_KEY, job_id)
            except ValidationError:  # see writing.active
                _log.warning("job_record_not_understood", job_id=job_id)


def no_job(job_id: str, *, param: str | None = None) -> NotFound:
    """Return the error for a job that is not there; what has no id's form may be a name, and is not told."""
    is_id = any(ids.is_object_id(job_id, kind) for kind in JobKind)
    return NotFound(f"no job {job_id}" if is_id else "no such job", param=param)


def index_key(kind: JobKind, tenant: str) -> str:
    """Return the key of a sorted set: a tenant's jobs of a kind by when they were submitted."""
    return f"nc:jobs:{kind}:{tenant}"


def archive_key(tenant: str, job_id: str) -> str:
    """Return where an ended job's record lies in the data bucket."""
    return f"jobs/{tenant}/{job_id}.json"


def events_archive_key(tenant: str, job_id: str) -> str:
    """Return where its events lie: apart, as they are megabytes where a record is a kilobyte."""
    return f"jobs/{tenant}/{job_id}.events.json"


def events_to_archive(events: list[JobEvent]) -> bytes:
    """Return them as they are archived."""
    return _EVENTS.dump_json(events)

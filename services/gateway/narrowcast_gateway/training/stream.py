"""A job's events as they come: server-sent events, in the form of OpenAI's older API."""

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import redis.asyncio
from anyio import to_thread
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from narrowcast import logs
from narrowcast.errors import InvalidInput, NarrowcastError, Unavailable
from narrowcast.jobs.records import Job, JobEvent, JobKind
from narrowcast.jobs.store import JobStore
from narrowcast.jobs.writing import event_of, event_place, events_key, record_key
from narrowcast.settings import RedisSettings
from narrowcast_gateway.errors import domain_body
from narrowcast_gateway.training.schemas import FineTuningEvent

_log = logs.get(__name__)
_HEARTBEAT_S: Final = 15.0
"""Proxies close a connection that is silent for a minute, some for half of one."""
_CONNECT_TIMEOUT_S: Final = 5.0
_ASK_AGAIN_S: Final = 1.0
_AT_ONCE: Final = 200
_START: Final = "0-0"
_MOST_OPEN: Final = 400
"""In one process, of all tenants; each takes two file descriptors, and a process often has but 1024."""
_SPARE_CONNECTIONS: Final = 100
"""For streams that were let in at the same moment, and for those that are just being closed."""


class EventStreams:
    """Open streams of one gateway process. Each holds one connection to Redis and waits on it."""

    def __init__(self, settings: RedisSettings, jobs: JobStore, most_per_tenant: int) -> None:
        self._most = max(_MOST_OPEN, most_per_tenant)
        # Made here, connected at the first use: in the event loop that serves the stream.
        self._redis: Any = redis.asyncio.Redis.from_url(
            settings.dsn,
            decode_responses=True,
            # Without one more for each stream a stream would be silent: redis-py's own limit is 100.
            max_connections=self._most + _SPARE_CONNECTIONS,
            socket_timeout=_HEARTBEAT_S + _CONNECT_TIMEOUT_S,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
        )
        self._jobs = jobs
        self._most_per_tenant = most_per_tenant
        self._open: Counter[str] = Counter()
        self._all_open = 0

    async def aclose(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def response(
        self, tenant: str, job_id: str, after: str | None, *, param: str = "after"
    ) -> StreamingResponse:
        """Return the answer that streams a job's events until the job has ended.

        Args:
            tenant: who asks.
            job_id: a job of that tenant.
            after: the last event that the caller has seen; None for all events.
            param: where the request says so, for errors.

        Raises:
            NotFound: the tenant has no such training job.
            InvalidInput: ``after`` is no event's id.
            Unavailable: ``too_many_streams``.
        """
        self._jobs.get(job_id, tenant=tenant, kind=JobKind.TRAINING)
        if after is not None and event_place(after) is None:
            raise InvalidInput("not an event's id", code="invalid_parameter", param=param)
        if self._open[tenant] >= self._most_per_tenant:
            raise Unavailable(
                f"{self._most_per_tenant} event streams are open already", code="too_many_streams"
            )
        if self._all_open >= self._most:
            raise Unavailable("the gateway has too many event streams open", code="too_many_streams")
        return _Response(self._lines(tenant, job_id, after or _START), self._counted(tenant))

    @contextlib.contextmanager
    def _counted(self, tenant: str) -> Iterator[None]:
        self._open[tenant] += 1
        self._all_open += 1
        try:
            yield
        finally:
            self._all_open -= 1
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]

    async def _lines(self, tenant: str, job_id: str, after: str) -> AsyncIterator[str]:
        try:
            async for event in self._follow(tenant, job_id, after):
                if event is None:
                    yield ": waiting\n\n"
                else:
                    yield f"id: {event.id}\ndata: {FineTuningEvent.of(event).model_dump_json()}\n\n"
        except NarrowcastError as error:
            # The status is long sent; OpenAI's clients raise on an error event.
            _log.error("event_stream_failed", exc_info=error)
            yield f"data: {json.dumps(domain_body(error))}\n\n"
            return
        yield "data: [DONE]\n\n"

    async def _follow(self, tenant: str, job_id: str, last: str) -> AsyncIterator[JobEvent | None]:
        """Yield events after ``last``; None at least every 15 s in which there are none."""
        while True:
            try:
                raw = await self._redis.get(record_key(job_id))
                if raw is None:
                    break
                # Asked first: what is there once a job has ended is all there will be.
                ended = Job.model_validate_json(raw).status.terminal
                events = await self._read(job_id, last, wait=not ended)
            except redis.RedisError:
                yield None
                await asyncio.sleep(_ASK_AGAIN_S)
                continue
            for event in events:
                last = event.id
                yield event
            if not events:
                if ended:
                    return
                yield None
        seen = event_place(last)
        for event in await to_thread.run_sync(self._jobs.events, job_id, tenant):
            if (place := event_place(event.id)) and seen and place > seen:
                yield event

    async def _read(self, job_id: str, last: str, *, wait: bool) -> list[JobEvent]:
        # Without BLOCK it answers at once; with it, at the first event or after that long.
        block = round(_HEARTBEAT_S * 1000) if wait else None
        found = await self._redis.xread({events_key(job_id): last}, count=_AT_ONCE, block=block)
        return [event_of(entry_id, fields) for _, entries in found for entry_id, fields in entries]


class _Response(StreamingResponse):
    def __init__(self, lines: AsyncIterator[str], counted: contextlib.AbstractContextManager[None]) -> None:
        # Nginx and its kin would hold events back until a buffer is full.
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(lines, media_type="text/event-stream", headers=headers)
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Counted from here on, so that an answer that is never sent is never counted.
        with self._counted:
            await super().__call__(scope, receive, send)

"""Metrics of the HTTP API."""

import time
from typing import Final

from prometheus_client import Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from narrowcast_gateway.middleware import method_of, route_of

UNMATCHED: Final = "unmatched"
_EVENT_STREAM: Final = "text/event-stream"
_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
"""From a look-up to a long generation; 300 s is the longest silence of an inference server."""

REQUESTS: Final = Counter(
    "narrowcast_http_requests", "Requests answered, by route template.", ["method", "route", "status"]
)
DURATION: Final = Histogram(
    "narrowcast_http_request_duration_seconds",
    "From a request's arrival to the end of its answer, streams included.",
    ["route"],
    buckets=_BUCKETS_S,
)
FIRST_EVENT: Final = Histogram(
    "narrowcast_http_stream_first_event_seconds",
    "From a request's arrival to its stream's first event, which vLLM sends with the first token.",
    ["route"],
    buckets=_BUCKETS_S,
)
IN_PROGRESS: Final = Gauge("narrowcast_http_requests_in_progress", "Requests being answered now.")


class RequestMetrics:
    """Counts and times every request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 500
        streams = False

        async def watched(message: Message) -> None:
            nonlocal status, streams
            if message["type"] == "http.response.start":
                status = message["status"]
                content_type = Headers(raw=message.get("headers", [])).get("content-type", "")
                streams = content_type.startswith(_EVENT_STREAM)
            elif streams and message.get("body"):
                streams = False
                FIRST_EVENT.labels(route_of(scope) or UNMATCHED).observe(time.monotonic() - started)
            await send(message)

        try:
            with IN_PROGRESS.track_inprogress():
                await self._app(scope, receive, watched)
        finally:
            route = route_of(scope) or UNMATCHED
            REQUESTS.labels(method_of(scope), route, str(status)).inc()
            DURATION.labels(route).observe(time.monotonic() - started)

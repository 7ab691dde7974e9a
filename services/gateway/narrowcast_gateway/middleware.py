"""What happens around every request: an id, one log line, a limit on the body."""

import re
import secrets
import time
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from narrowcast import logs
from narrowcast.errors import TooLarge
from narrowcast.metrics import OTHER
from narrowcast_gateway.errors import error_body, unexpected

_log = logs.get(__name__)
BODY_END: Final = "narrowcast.body_end"
_END_BYTES: Final = 1024
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HEX = "[0-9a-fA-F]"
_REQUEST_ID = re.compile(rf"^(?:{_HEX}{{32}}|{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}})\Z")


def method_of(scope: Scope) -> str:
    """Return the request's method, or ``other``: HTTP allows any word for it, a name as well."""
    method: str = scope["method"]
    return method if method in _METHODS else OTHER


def route_of(scope: Scope) -> str | None:
    """Return the template of the route that took the request, since a mistyped URL could hold anything."""
    path: str | None = getattr(scope.get("route"), "path", None)
    return path


class RequestContext:
    """Gives each request an id, in logs and in the answer's ``X-Request-ID``.

    The log line has the path template's values only (ids), never a query or a body.

    Also answers what nobody foresaw: Starlette's own layer for that lies outside of this one, so
    that neither its answer nor its log would have the id, and lets the server drop the connection.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        # A caller's id is taken over only if it can be no text and no number of a patient's papers, which
        # are shorter: a UUID, with or without hyphens.
        request_id = offered if _REQUEST_ID.match(offered) else secrets.token_hex(8)
        status = 500
        answered = False
        started = time.monotonic()

        async def send_with_id(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                answered = True
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with logs.bound(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception as error:
                _log.error("unexpected_error", exc_info=error)
                if answered:
                    raise  # only a broken connection can say so now
                await unexpected()(scope, receive, send_with_id)
            finally:
                _log.info(
                    "request",
                    method=method_of(scope),
                    route=route_of(scope),
                    status=status,
                    ms=round((time.monotonic() - started) * 1000),
                )


class BodyLimit:
    """Answers 413 as soon as a body grows over the limit, whatever its declared length.

    The body's last bytes are kept in the scope under ``BODY_END``: a form that was cut off is parsed without
    complaint, and only these tell.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        message = f"the request body is over the limit of {self._max_bytes} bytes"
        if declared.isdigit() and int(declared) > self._max_bytes:
            await JSONResponse(error_body(413, message, "body_too_large"), 413)(scope, receive, send)
            return
        received = 0
        scope[BODY_END] = b""

        async def counted() -> Message:
            nonlocal received
            part = await receive()
            body = part.get("body", b"")
            received += len(body)
            scope[BODY_END] = (scope[BODY_END] + body[-_END_BYTES:])[-_END_BYTES:]
            if received > self._max_bytes:
                raise TooLarge(message, code="body_too_large")
            return part

        await self._app(scope, counted, send)

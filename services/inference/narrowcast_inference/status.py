"""ASGI middleware for vLLM: why an adapter was not served, and whether the resolver is there.

vLLM answers 404 for every adapter its resolver does not return. The true code travels in the
header ``x-narrowcast-error-code`` of that response; ``GET /narrowcast/adapters/{tenant}/{id}``
fetches and checks an adapter ahead of its first request and answers with the code and a message;
``GET /narrowcast/health`` is for probes. vLLM's own routes for loading adapters from any path
are closed: only the object store says what is served.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request

from narrowcast.adapters import serving_name
from narrowcast.artifacts import CorruptArtifact
from narrowcast.errors import InvalidInput, NarrowcastError, NotFound, Unavailable
from narrowcast_inference.gpu_lease import lease_from_environment
from narrowcast_inference.plugin import is_registered
from narrowcast_inference.service import Outcome, outcome, service_from_environment
from narrowcast_inference.settings import settings_from_environment

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

ERROR_CODE_HEADER: Final = "x-narrowcast-error-code"
_PREFIX: Final = "/narrowcast/"
_CLOSED: Final = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters")
_STATUS: Final[tuple[tuple[type[NarrowcastError], int], ...]] = (
    (NotFound, 404),
    (CorruptArtifact, 409),
    (InvalidInput, 422),
    (Unavailable, 503),
)


class AdapterStatusMiddleware:
    """Around vLLM's app."""

    def __init__(self, app: App) -> None:
        self._app = app
        # It also looks for adapters that were deleted, which is not to wait for the first request.
        service_from_environment()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer what is ours, pass the rest on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path.startswith(_PREFIX):
            await _respond(send, *await _answer(scope["method"], path.removeprefix(_PREFIX)))
        elif path.rstrip("/").startswith(_CLOSED):
            await _respond(send, 404, _error(NotFound("adapters come from the object store")))
        else:
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            return
        # One object for the request: vLLM's handler may run in a task with a copy of this context.
        current = Outcome()
        outcome.set(current)

        async def send_with_code(message: Message) -> None:
            if message["type"] == "http.response.start" and current.error is not None:
                code = current.error.code.encode()
                message["headers"] = [*message["headers"], (ERROR_CODE_HEADER.encode(), code)]
            await send(message)

        with service_from_environment().using(_model(body), scope["app"].state):
            await self._app(scope, _again(body, receive), send_with_code)


def _model(body: bytes) -> str:
    """Return the model that a request names; an empty name if it names none, or is none."""
    try:
        return str(json.loads(body)["model"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives a body which has been read already."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def first_the_body() -> Message:
        return next(messages, None) or await receive()

    return first_the_body


async def _answer(method: str, path: str) -> tuple[int, dict[str, Any]]:
    if method != "GET":
        return 405, _error(InvalidInput("only GET is served here", code="method_not_allowed"))
    match path.strip("/").split("/"):
        case ["health"]:
            return _health()
        case ["adapters", tenant, adapter_id]:
            return await _adapter(serving_name(tenant, adapter_id))
    return 404, _error(NotFound("no such route"))


def _health() -> tuple[int, dict[str, Any]]:
    registered = is_registered()
    section = settings_from_environment().inference
    lease = lease_from_environment()
    body = {
        "resolver_registered": registered,
        "base_model": section.base_model,
        "base_fingerprint": section.base_fingerprint,
        "accepted_fingerprints": sorted(section.fingerprints),
        "max_lora_rank": section.max_lora_rank,
        "max_model_len": section.max_model_len,
        "stop_token_ids": section.stop_token_ids,
        "special_token_ids": section.special_token_ids,
        "context_length": section.context_length,
        "gpu": {"phase": lease.phase, "holder": lease.holder},
    }
    return (200 if registered else 503), body


async def _adapter(name: str) -> tuple[int, dict[str, Any]]:
    try:
        await service_from_environment().locate(name)
    except NarrowcastError as error:
        status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
        return status, _error(error)
    return 200, {"id": name, "status": "ready"}


def _error(error: NarrowcastError) -> dict[str, Any]:
    return {"error": {"code": error.code, "message": error.message, "param": error.param}}


async def _respond(send: Send, status: int, body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": raw})

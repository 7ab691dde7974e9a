"""ASGI middleware for vLLM, present if ``gpu_sharing`` is set: who may use the GPU now.

``PUT /narrowcast/gpu-lease/{holder}`` with ``{"ttl_s": …}`` asks for the GPU: 200 when its memory
is free, 202 while requests in flight end (ask again), 409 if another holder has it. It has to be
repeated within ``ttl_s``; a holder that died is thus forgotten. ``DELETE`` gives it back. As long
as it is lent, whatever would make the engine compute is answered with 503, ``Retry-After`` and
the code ``gpu_busy_training``; health stays good, because a sleeping server must not be restarted.

There is no access control: as for the whole server, only the gateway and the trainer reach it.
"""

import asyncio
from contextlib import ExitStack
from typing import Final

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from narrowcast.errors import Conflict, Unavailable
from narrowcast_inference.gpu_lease import GpuLease, Phase, busy_training, lease_from_environment
from narrowcast_inference.status import ERROR_CODE_HEADER, App, Message, Receive, Send

_PREFIX: Final = "/narrowcast/gpu-lease/"
_WITHOUT_THE_ENGINE: Final = {"/tokenize", "/detokenize"}
"""vLLM's web server does this by itself; a preview of a training may be wanted while another trains."""
_RETRY_AFTER_S: Final = 30
"""How long the job trains is not known here. OpenAI's clients heed up to 60."""


class LeaseRequest(BaseModel):
    """Body of the PUT."""

    ttl_s: float = Field(gt=0, le=600)
    """Seconds until the server wakes up by itself."""


class GpuSharingMiddleware:
    """Must be around :class:`~narrowcast_inference.status.AdapterStatusMiddleware`."""

    def __init__(self, app: App, lease: GpuLease | None = None) -> None:
        self._app = app
        self._lease = lease or lease_from_environment()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer what is ours, refuse or count what computes, pass the rest on."""
        if scope["type"] == "http" and scope["path"].startswith(_PREFIX):
            response = await self._answer(Request(scope, receive))
            await response(scope, receive, send)
        elif (
            scope["type"] == "http" and scope["method"] == "POST" and scope["path"] not in _WITHOUT_THE_ENGINE
        ):
            # Every route of vLLM that makes the engine compute is a POST.
            await self._compute(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        holder = request.url.path.removeprefix(_PREFIX)
        if request.method == "DELETE":
            self._lease.release(holder)
            return Response(status_code=204)
        if request.method != "PUT":
            return _error(405, "method_not_allowed", "PUT takes or renews, DELETE gives back")
        try:
            wanted = LeaseRequest.model_validate_json(await request.body())
            phase = self._lease.hold(request.app.state.engine_client, holder, wanted.ttl_s)
        except ValidationError:
            return _error(422, "invalid_input", "the body is not a lease request")
        except Conflict as error:
            return _error(409, error.code, error.message)
        return JSONResponse({"phase": phase}, 200 if phase is Phase.ASLEEP else 202)

    async def _compute(self, scope: Message, receive: Receive, send: Send) -> None:
        with ExitStack() as in_flight:
            try:
                cut = in_flight.enter_context(self._lease.admitted())
            except Unavailable as busy:
                await _refuse(busy)(scope, receive, send)
                return
            exchange = _Exchange(receive, send, cut)
            await self._app(scope, exchange.receive, exchange.send)
        # A stream that was cut off lacks its last chunk, so that nobody takes it for whole: the web
        # server closes the connection.
        if cut.is_set() and not exchange.answered:
            await _refuse(busy_training())(scope, receive, send)


class _Exchange:
    """One request that can be cut off: vLLM then believes that the client is gone.

    Cancelling its task instead would leave vLLM's handler running: it waits for it in a way that
    does not pass a cancellation on.
    """

    def __init__(self, receive: Receive, send: Send, cut: asyncio.Event) -> None:
        self._receive = receive
        self._send = send
        self._cut = cut
        self.answered = False

    async def receive(self) -> Message:
        """Return the next message, or a disconnect."""
        message = asyncio.ensure_future(self._receive())
        cut = asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait({message, cut}, return_when=asyncio.FIRST_COMPLETED)
            return message.result() if message.done() else {"type": "http.disconnect"}
        finally:
            message.cancel()
            cut.cancel()

    async def send(self, message: Message) -> None:
        """Pass a message on unless cut off."""
        if not self._cut.is_set():
            self.answered = True
            await self._send(message)


def _refuse(busy: Unavailable) -> Response:
    response = _error(503, busy.code, busy.message)
    response.headers["Retry-After"] = str(_RETRY_AFTER_S)
    return response


def _error(status: int, code: str, message: str) -> Response:
    body = {"error": {"code": code, "message": message, "param": None}}
    return JSONResponse(body, status, {ERROR_CODE_HEADER: code})

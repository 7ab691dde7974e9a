"""Speaks OpenAI HTTP to one vLLM server, and turns its failures into ours.

vLLM's own error texts are not passed on: they can quote the request.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from narrowcast.errors import InvalidInput, NarrowcastError, Outage, Unavailable
from narrowcast_gateway.adapters.service import ModelTarget

_CONTEXT_MARKS = ("context length", "max_model_len", "maximum model length", "longer than the maximum")
_ANSWER_LENGTHS = ("max_completion_tokens", "max_tokens")
_BAD_REQUEST = 400
_NOT_FOUND = 404
_OF_A_PROXY = {502, 503, 504}
"""Of one that stands before vLLM and finds it away."""
_HEALTH_TIMEOUT_S = 2.0
_ASK_AGAIN_S = 10
"""While training has the GPU; nobody is kept waiting who is not at work on a job."""


class GpuBusy(Unavailable):
    """The server sleeps, because a job trains on its GPU."""

    code = "gpu_busy_training"


class InferenceClient:
    """A thin client; the HTTP connection pool is the caller's."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def complete(
        self, target: ModelTarget, body: dict[str, Any], *, prompt_param: str = "messages"
    ) -> dict[str, Any]:
        """Return a whole chat completion.

        Args:
            target: who answers.
            body: the request as vLLM takes it.
            prompt_param: what the caller knows the prompt as, for errors.

        Raises:
            InvalidInput: the prompt does not fit the context, or the server refuses a parameter.
            GpuBusy: a training job has the GPU.
            Unavailable: the server does not answer, or could not load the adapter.
        """
        try:
            response = await self._http.post(_chat_url(target), json=body | _apart(target))
        except httpx.HTTPError as error:
            raise _unreachable(target) from error
        if response.is_error:
            raise _failure(
                target, response.status_code, response.text, body, _adapter_fault(response), prompt_param
            )
        completion: dict[str, Any] = response.json()
        return completion | {"model": target.name}

    async def complete_when_free(
        self, target: ModelTarget, body: dict[str, Any], check: Callable[[], None], *, prompt_param: str
    ) -> dict[str, Any]:
        """As :meth:`complete`, but sit out a training job, however long it trains.

        ``check`` is called every second of the wait and ends it by raising.
        """
        while True:
            try:
                return await self.complete(target, body, prompt_param=prompt_param)
            except GpuBusy:
                for _ in range(_ASK_AGAIN_S):
                    check()
                    await asyncio.sleep(1)

    @asynccontextmanager
    async def stream(
        self, target: ModelTarget, body: dict[str, Any]
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Open a streamed completion and give its chunks.

        Raises:
            InvalidInput, Unavailable: as :meth:`complete`, before the first chunk.
        """
        try:
            async with self._http.stream("POST", _chat_url(target), json=body | _apart(target)) as response:
                if response.is_error:
                    text = (await response.aread()).decode(errors="replace")
                    raise _failure(target, response.status_code, text, body, _adapter_fault(response))
                yield _chunks(target, response, body)
        except httpx.HTTPError as error:
            raise _unreachable(target) from error

    async def healthy(self, url: str) -> bool:
        """Whether the server answers its health check."""
        try:
            response = await self._http.get(f"{url.rstrip('/')}/health", timeout=_HEALTH_TIMEOUT_S)
        except httpx.HTTPError:
            return False
        return response.is_success


async def _chunks(
    target: ModelTarget, response: httpx.Response, body: dict[str, Any]
) -> AsyncIterator[dict[str, Any]]:
    try:
        async for line in response.aiter_lines():
            data = line.removeprefix("data: ")
            if data == line or data == "[DONE]":
                continue
            chunk: dict[str, Any] = json.loads(data)
            if "error" in chunk:
                raise _failure(target, int(chunk["error"].get("code") or 500), data, body)
            yield chunk | {"model": target.name}
    except httpx.HTTPError as error:
        raise _unreachable(target) from error


def _apart(target: ModelTarget) -> dict[str, str]:
    """Return what keeps tenants apart in vLLM's cache of prompts.

    They share a base: how soon the first word comes would tell one whether another has asked the same. No
    request can say it by itself, so a tenant's name does, though anybody may know it.
    """
    return {"cache_salt": target.tenant}


def _chat_url(target: ModelTarget) -> str:
    return f"{target.url.rstrip('/')}/v1/chat/completions"


def _unreachable(target: ModelTarget) -> Outage:
    base = target.adapter.base.name if target.adapter else target.name
    return Outage(f"the inference server of {base} does not answer", code="inference_unavailable")


def _adapter_fault(response: httpx.Response) -> str | None:
    """Return why the server did not come to answer, as far as it is our part of it that says so."""
    code: str | None = response.headers.get("x-narrowcast-error-code")
    return code


def _refused_field(text: str, body: dict[str, Any]) -> str | None:
    """Return the field of ``body`` that vLLM's error is about, as far as it says so.

    It names it, or its message begins with it: ``n must be 1 when using greedy sampling``.
    """
    try:
        error = json.loads(text)["error"]
        named = str(error.get("param") or error["message"].partition(" ")[0])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    field = named.removeprefix("body.").partition(".")[0]
    return field if field in body else None


def _failure(
    target: ModelTarget,
    status: int,
    text: str,
    body: dict[str, Any],
    adapter_fault: str | None = None,
    prompt_param: str = "messages",
) -> NarrowcastError:
    if adapter_fault == GpuBusy.code:
        return GpuBusy("the model is paused while a training job uses its GPU; try again later")
    if adapter_fault is not None:
        message = f"the inference server could not load {target.name}: {adapter_fault}"
        return Unavailable(message, code="adapter_not_loaded", param="model")
    field = _refused_field(text, body)
    param = prompt_param if field == "messages" else field
    lowered = text.lower()
    if status == _BAD_REQUEST and any(mark in lowered for mark in _CONTEXT_MARKS):
        answer = field in _ANSWER_LENGTHS
        cause = f"{field} is more than" if answer else "the prompt leaves no room for an answer in"
        return InvalidInput(
            f"{cause} the model's context",
            code="context_length_exceeded",
            param=field if answer else prompt_param,
        )
    if status in {_BAD_REQUEST, _NOT_FOUND} and target.adapter is not None and target.served_as in text:
        message = f"the inference server could not load {target.name}"
        return Unavailable(message, code="adapter_not_loaded", param="model")
    if _BAD_REQUEST <= status < 500:
        message = f"the inference server refuses {param or 'a parameter of the request'}"
        return InvalidInput(message, code="invalid_request", param=param)
    if status in _OF_A_PROXY:
        return _unreachable(target)
    return Unavailable("the inference server failed", code="inference_failed")

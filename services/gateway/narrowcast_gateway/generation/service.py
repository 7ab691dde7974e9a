"""Generation for a tenant: resolve the model, render the prompt, ask vLLM."""

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx
from anyio import to_thread

from narrowcast import ids, prompts
from narrowcast_gateway.adapters.service import Adapters, ModelTarget
from narrowcast_gateway.generation.client import InferenceClient
from narrowcast_gateway.generation.schemas import (
    ChatCompletionRequest,
    CreateReport,
    Report,
    Usage,
)
from narrowcast_gateway.generation.warnings import draft_warnings
from narrowcast_gateway.settings import ServersSettings


class Generation:
    """Chat completions and reports."""

    def __init__(self, adapters: Adapters, settings: ServersSettings, http: httpx.AsyncClient) -> None:
        self._adapters = adapters
        self._settings = settings
        self._client = InferenceClient(http)

    async def target(self, tenant: str, model: str) -> ModelTarget:
        """Return where requests for ``model`` go.

        Raises:
            NotFound: the tenant has no such model.
        """
        return await to_thread.run_sync(self._adapters.resolve, tenant, model)

    async def chat(self, tenant: str, request: ChatCompletionRequest) -> dict[str, Any]:
        """Return a chat completion in OpenAI's form."""
        target = await self.target(tenant, request.model)
        return await self._client.complete(target, request.for_server(target.served_as))

    async def stream(
        self, tenant: str, request: ChatCompletionRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[dict[str, Any]]]:
        """Return a context that gives the chunks of a streamed completion."""
        target = await self.target(tenant, request.model)
        return self._client.stream(target, request.for_server(target.served_as))

    async def report(self, tenant: str, request: CreateReport) -> Report:
        """Draft the descriptive part for an impression."""
        target = await self.target(tenant, request.model)
        body = report_request(target, request.impression, instruction=instruction(target, request.study))
        body |= request.model_dump(include={"max_tokens", "temperature", "seed"}, exclude_none=True)
        completion = await self._client.complete(target, body, prompt_param="impression")
        choice = completion["choices"][0]
        description = (choice["message"]["content"] or "").strip()
        return Report(
            id=ids.new_id("report"),
            created=int(time.time()),
            model=target.name,
            description=description,
            finish_reason=choice["finish_reason"],
            warnings=draft_warnings(description, choice["finish_reason"]),
            usage=Usage.model_validate(completion["usage"], extra="ignore"),
        )

    async def check(self) -> dict[str, bool]:
        """Ask every inference server whether it is healthy."""
        return {base: await self._client.healthy(str(url)) for base, url in self._settings.bases.items()}


def instruction(target: ModelTarget, study: str | None) -> str:
    """Return the instruction for a request: of the study if named, else what the adapter saw most."""
    if study is None and target.adapter is not None:
        return target.adapter.prompt.default_instruction
    return prompts.instruction_for(study)


def report_request(target: ModelTarget, impression: str, *, instruction: str) -> dict[str, Any]:
    """Return vLLM's chat request for one report; greedy unless the caller changes it."""
    return {
        "model": target.served_as,
        "messages": prompts.prompt_messages(instruction, impression),
        "temperature": 0.0,
    }

"""``/v1/chat/completions`` and ``/v1/reports``."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse

from narrowcast import logs
from narrowcast.errors import NarrowcastError
from narrowcast_gateway.deps import KeyedRoute, ServicesDep, TenantDep
from narrowcast_gateway.errors import domain_body
from narrowcast_gateway.generation.leaving import unless_caller_leaves
from narrowcast_gateway.generation.schemas import ChatCompletionRequest, CreateReport, Report

_log = logs.get(__name__)
router = APIRouter(tags=["generation"], route_class=KeyedRoute)


@router.post("/chat/completions", response_model=None)
async def create_chat_completion(
    request: ChatCompletionRequest, http: Request, services: ServicesDep, tenant: TenantDep
) -> JSONResponse | StreamingResponse:
    """Answer a chat with a base model or an adapter, as OpenAI does; `stream` for server-sent events."""
    if not request.stream:
        return JSONResponse(await unless_caller_leaves(http, services.generation.chat(tenant, request)))
    # Opened here, not in the generator: what fails before the first chunk is still a plain 4xx.
    stack = AsyncExitStack()
    chunks = await stack.enter_async_context(await services.generation.stream(tenant, request))
    return StreamingResponse(_server_sent_events(chunks, stack), media_type="text/event-stream")


async def _server_sent_events(
    chunks: AsyncIterator[dict[str, Any]], stack: AsyncExitStack
) -> AsyncIterator[str]:
    async with stack:
        try:
            async for chunk in chunks:
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"
        except NarrowcastError as error:
            # The status is long sent; OpenAI's clients raise on an error event.
            _log.error("stream_failed", exc_info=error)
            yield f"data: {json.dumps(domain_body(error))}\n\n"
            return
        yield "data: [DONE]\n\n"


@router.post("/reports")
async def create_report(
    request: CreateReport, http: Request, services: ServicesDep, tenant: TenantDep
) -> Report:
    """Draft the descriptive part of a report from its impression."""
    return await unless_caller_leaves(http, services.generation.report(tenant, request))

"""What vLLM is asked beside what the caller asks."""

import json
from typing import Any

import httpx
import pytest

from narrowcast_gateway.adapters.service import ModelTarget
from narrowcast_gateway.generation.client import InferenceClient

BASE = "smollm2-135m-instruct"


async def asked(tenant: str, *, stream: bool) -> Any:
    """The body that one request to the base comes to."""
    bodies: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json={})

    target = ModelTarget(name=BASE, served_as=BASE, url="http://inference", adapter=None, tenant=tenant)
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = InferenceClient(http)
        if stream:
            async with client.stream(target, {"model": BASE}):
                pass
        else:
            await client.complete(target, {"model": BASE})
    return bodies[0]


@pytest.mark.parametrize("stream", [False, True])
async def test_tenants_share_no_cached_prompts(*, stream: bool) -> None:
    salts = [(await asked(tenant, stream=stream))["cache_salt"] for tenant in ("ward", "other", "ward")]
    assert salts[0] == salts[2] != salts[1]

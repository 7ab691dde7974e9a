import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from narrowcast.errors import NarrowcastError, NotFound
from narrowcast_inference import status
from narrowcast_inference.service import AdapterService, outcome
from narrowcast_inference.status import AdapterStatusMiddleware


async def call(path: str, app: Any = None, method: str = "GET") -> tuple[int, dict[str, str], Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await AdapterStatusMiddleware(app)({"type": "http", "path": path, "method": method}, None, send)  # type: ignore[arg-type]
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(sent[1]["body"])


async def vllm_app(scope: Any, receive: Any, send: Any) -> None:
    """Like vLLM: the resolver runs in a task of its own, then an answer without its reason."""

    async def resolve() -> None:
        current = outcome.get()
        if scope["path"] == "/v1/refused":
            assert current is not None
            current.error = NarrowcastError("no", code="wrong_base_model")

    await asyncio.create_task(resolve())
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def test_the_reason_reaches_the_response() -> None:
    refused, served = await asyncio.gather(call("/v1/refused", vllm_app), call("/v1/other", vllm_app))
    assert refused[1]["x-narrowcast-error-code"] == "wrong_base_model"
    assert "x-narrowcast-error-code" not in served[1]


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter/", "/adapters", "/adapters/clinic"]
)
async def test_loading_from_any_path_is_closed(path: str) -> None:
    assert (await call(path, vllm_app, "POST"))[0] == 404


async def test_an_adapter_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cache:
        def ensure(self, tenant: str, adapter_id: str) -> Path:
            if tenant == "clinic":
                return Path("/somewhere")
            raise NotFound("no such adapter")

    service = AdapterService(Cache(), 5)  # type: ignore[arg-type]
    monkeypatch.setattr(status, "service_from_environment", lambda: service)
    assert (await call("/narrowcast/adapters/clinic/one-adapter"))[0] == 200
    code, _, body = await call("/narrowcast/adapters/other/one-adapter")
    assert (code, body["error"]["code"]) == (404, "not_found")
    assert (await call("/narrowcast/adapters/clinic/one-adapter", method="POST"))[0] == 405
    assert (await call("/narrowcast/else"))[0] == 404

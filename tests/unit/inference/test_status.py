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
from narrowcast_inference.usage import AdapterUsage


class Server:
    """Stands for vLLM's web server; only its state is handed on."""

    state = None


async def call(
    path: str, app: Any = None, method: str = "GET", *chunks: bytes
) -> tuple[int, dict[str, str], Any]:
    sent: list[Any] = []
    body = iter(
        {"type": "http.request", "body": chunk, "more_body": more < len(chunks)}
        for more, chunk in enumerate(chunks or (b"",), 1)
    )

    async def receive() -> Any:
        return next(body, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "app": Server}
    await AdapterStatusMiddleware(app)(scope, receive, send)
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


class Cache:
    """Knows the adapters of one tenant."""

    def ensure(self, tenant: str, adapter_id: str) -> Path:
        if tenant == "clinic":
            return Path("/somewhere")
        raise NotFound("no such adapter")

    def touch(self, tenant: str, adapter_id: str) -> None:
        self.touched = (tenant, adapter_id)


@pytest.fixture
def usage() -> AdapterUsage:
    return AdapterUsage()


def test_deleted_adapters_are_looked_for_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the first request on: a server that nobody asks has them on its disk as well."""
    made: list[None] = []
    monkeypatch.setattr(status, "service_from_environment", lambda: made.append(None))
    AdapterStatusMiddleware(vllm_app)
    assert made


@pytest.fixture(autouse=True)
def cache(usage: AdapterUsage, monkeypatch: pytest.MonkeyPatch) -> Cache:
    cache = Cache()
    service = AdapterService(cache, 5, usage)  # type: ignore[arg-type]
    monkeypatch.setattr(status, "service_from_environment", lambda: service)
    return cache


async def test_the_reason_reaches_the_response() -> None:
    refused, served = await asyncio.gather(
        call("/v1/refused", vllm_app, "POST"), call("/v1/other", vllm_app, "POST")
    )
    assert refused[1]["x-narrowcast-error-code"] == "wrong_base_model"
    assert "x-narrowcast-error-code" not in served[1]


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter/", "/adapters", "/adapters/clinic"]
)
async def test_loading_from_any_path_is_closed(path: str) -> None:
    assert (await call(path, vllm_app, "POST"))[0] == 404


async def test_an_adapter_is_in_use_while_a_request_for_it_runs(usage: AdapterUsage, cache: Cache) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend([await receive(), await receive(), usage.in_flight("clinic/one-adapter")])
        await vllm_app(scope, receive, send)

    body = (b'{"model": "clinic/one', b'-adapter"}')
    await call("/v1/completions", app, "POST", *body)
    assert seen == [
        {"type": "http.request", "body": b"".join(body), "more_body": False},
        {"type": "http.disconnect"},
        1,
    ]
    assert usage.in_flight("clinic/one-adapter") == 0
    assert cache.touched == ("clinic", "one-adapter")


@pytest.mark.parametrize(
    "body", [b"", b"[", b"[]", b"null", b'{"model": ["x"]}', b"\xff\xfe", b"[" * 100_000]
)
async def test_bodies_that_name_no_model_are_left_to_vllm(body: bytes) -> None:
    received: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.append((await receive())["body"])
        await vllm_app(scope, receive, send)

    assert (await call("/v1/completions", app, "POST", body))[0] == 404
    assert received == [body]


async def test_an_adapter_can_be_asked_for() -> None:
    assert (await call("/narrowcast/adapters/clinic/one-adapter"))[0] == 200
    code, _, body = await call("/narrowcast/adapters/other/one-adapter")
    assert (code, body["error"]["code"]) == (404, "not_found")
    assert (await call("/narrowcast/adapters/clinic/one-adapter", method="POST"))[0] == 405
    assert (await call("/narrowcast/else"))[0] == 404

"""What the API counts, and that nothing a caller writes gets into a label."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from prometheus_client import REGISTRY, generate_latest

from narrowcast_gateway.app import create_app
from narrowcast_gateway.metrics import RequestMetrics
from narrowcast_gateway.settings import GatewaySettings

NAME = "Тестомиров"
ASCII_NAME = "Testomirov"


@pytest.fixture
def app() -> FastAPI:
    """The real application; nothing here comes as far as a store."""
    return create_app(GatewaySettings())


def client(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://gateway")


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_a_request_is_counted_once_under_its_template(app: FastAPI) -> None:
    labels = {"method": "GET", "route": "/v1/corpora/{corpus_id}", "status": "401"}
    counted = value("narrowcast_http_requests_total", **labels)
    timed = value("narrowcast_http_request_duration_seconds_count", route=labels["route"])
    app.state.services = None  # no key, so no service is asked
    async with client(app) as http:
        assert (await http.get(f"/v1/corpora/{ASCII_NAME}")).status_code == 401
    assert value("narrowcast_http_requests_total", **labels) == counted + 1
    assert value("narrowcast_http_request_duration_seconds_count", route=labels["route"]) == timed + 1
    assert value("narrowcast_http_requests_in_progress") == 0


async def test_nothing_that_a_caller_writes_becomes_a_label(
    app: FastAPI, capsys: pytest.CaptureFixture[str]
) -> None:
    app.state.services = None
    async with client(app) as http:
        for path in (f"/{ASCII_NAME}", f"/v1/corpora/{NAME}", f"/v1/{NAME}?q={NAME}", f"/docs/{ASCII_NAME}"):
            for method in ("GET", "POST", "DELETE", ASCII_NAME.upper(), NAME, f"GET{NAME}"):
                await http.request(
                    method, path, headers={"X-Request-ID": ASCII_NAME, "User-Agent": ASCII_NAME}
                )
    shown = generate_latest(REGISTRY).decode()
    logged = capsys.readouterr()
    for text in (NAME, ASCII_NAME, ASCII_NAME.upper()):
        assert text not in shown
        assert text not in logged.err + logged.out
    assert value("narrowcast_http_requests_total", method="other", route="unmatched", status="404") > 0
    assert value("narrowcast_http_requests_total", method="GET", route="unmatched", status="404") > 0


async def test_label_values_are_few_whatever_is_asked_for(app: FastAPI) -> None:
    async with client(app) as http:
        await http.get("/first")
        await http.get("/unknown")
        await http.request("M", "/unknown")  # the series of all odd methods
        before = len(generate_latest(REGISTRY).splitlines())
        for number in range(200):
            await http.request(f"M{number}", f"/unknown/{number}")
            await http.get(f"/unknown/{number}")
    assert len(generate_latest(REGISTRY).splitlines()) == before


async def test_a_stream_is_timed_to_its_first_event_and_to_its_end() -> None:
    app = FastAPI()
    app.add_middleware(RequestMetrics)

    async def events() -> AsyncIterator[str]:
        for _ in range(3):
            yield "data: {}\n\n"

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    @app.get("/plain")
    async def plain() -> dict[str, str]:
        return {}

    async with client(app) as http:
        await http.get("/stream")
        await http.get("/plain")
    assert value("narrowcast_http_stream_first_event_seconds_count", route="/stream") == 1
    assert value("narrowcast_http_request_duration_seconds_count", route="/stream") == 1
    assert value("narrowcast_http_stream_first_event_seconds_count", route="/plain") == 0


async def test_an_error_nobody_foresaw_is_a_500() -> None:
    app = FastAPI()
    app.add_middleware(RequestMetrics)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError(NAME)

    async with client(app) as http:
        await http.get("/broken")
    assert value("narrowcast_http_requests_total", method="GET", route="/broken", status="500") == 1
    assert value("narrowcast_http_requests_in_progress") == 0

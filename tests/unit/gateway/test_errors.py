"""What answers when something goes wrong around an endpoint: OpenAI's shape, and no text of the caller's."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any
from unittest.mock import Mock

import httpx
import pytest
from fastapi import FastAPI, File, HTTPException, UploadFile
from fastapi.responses import StreamingResponse
from minio.error import S3Error
from prometheus_client import REGISTRY
from pydantic import BaseModel, ConfigDict, StringConstraints
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from narrowcast.errors import NotFound
from narrowcast_gateway.app import create_app
from narrowcast_gateway.settings import GatewaySettings, UploadSettings

NAME = "Тестомиров"
KEY = "datasets/clinic/dataset-0/train.jsonl"
REQUEST_ID = "0123456789abcdef" * 2
JSON = {"Content-Type": "application/json"}
_LIMIT = 300_000


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    part: Part | None = None
    content: str | list[Part] = ""
    layers: Annotated[str, StringConstraints(max_length=3)] | list[str] = ""
    numbers: dict[str, int] = {}


@pytest.fixture
def app() -> FastAPI:
    """The real application with some endpoints more; nothing here comes as far as a store."""
    app = create_app(GatewaySettings(uploads=UploadSettings(max_body_bytes=_LIMIT)))

    @app.get("/unforeseen")
    async def broken() -> None:
        raise RuntimeError(NAME)

    @app.get("/unforeseen-stream")
    async def broken_stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield "first"
            raise RuntimeError(NAME)

        return StreamingResponse(lines())

    @app.get("/range")
    async def out_of_range() -> None:
        raise HTTPException(416, "the range begins after the end", {"Content-Range": "bytes */5"})

    @app.post("/checked")
    async def checked(body: Body) -> None: ...

    @app.post("/uploaded")
    async def uploaded(files: Annotated[list[UploadFile], File()]) -> None: ...

    @app.get("/stored")
    async def stored() -> None:
        try:
            raise S3Error(
                code="NoSuchKey", message=None, resource=KEY, request_id=None, host_id=None, response=Mock()
            )
        except S3Error as error:
            raise NotFound(f"{KEY} does not exist") from error

    return app


@pytest.fixture
def client(app: FastAPI) -> httpx.AsyncClient:
    # An exception that comes out of the application, after which a server would drop the connection,
    # comes out here.
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


def error(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert found["code"] == code
    return found


def counted(route: str) -> float:
    labels = {"method": "GET", "route": route, "status": "500"}
    return REGISTRY.get_sample_value("narrowcast_http_requests_total", labels) or 0.0


async def test_what_nobody_foresaw_is_answered_and_logged_under_the_requests_id(
    client: httpx.AsyncClient,
) -> None:
    before = counted("/unforeseen")
    with capture_logs([merge_contextvars]) as logged:
        response = await client.get("/unforeseen", headers={"X-Request-ID": REQUEST_ID})
    assert error(response, 500, "internal_error")["type"] == "server_error"
    assert NAME not in response.text
    assert response.headers["X-Request-ID"] == REQUEST_ID
    assert counted("/unforeseen") == before + 1
    assert [(line["event"], line["request_id"]) for line in logged] == [
        ("unexpected_error", REQUEST_ID),
        ("request", REQUEST_ID),
    ]
    assert logged[1]["status"] == 500


@pytest.mark.parametrize("offered", ["112-233-445-95", "1122334455667788", "85031230012", "0" * 33])
async def test_a_number_of_a_patients_papers_becomes_no_request_id(
    client: httpx.AsyncClient, offered: str
) -> None:
    with capture_logs([merge_contextvars]) as logged:
        response = await client.get("/unforeseen", headers={"X-Request-ID": offered})
    assert response.headers["X-Request-ID"] != offered
    assert offered not in str(logged)


async def test_what_breaks_a_begun_answer_is_logged_and_breaks_the_connection(
    client: httpx.AsyncClient,
) -> None:
    with capture_logs([merge_contextvars]) as logged, pytest.raises(RuntimeError):
        await client.get("/unforeseen-stream", headers={"X-Request-ID": REQUEST_ID})
    assert ("unexpected_error", REQUEST_ID) in [(line["event"], line["request_id"]) for line in logged]


async def test_a_wrong_method_is_told_the_right_ones(client: httpx.AsyncClient) -> None:
    response = await client.put("/healthz")
    error(response, 405, "method_not_allowed")
    assert response.headers["Allow"] == "GET"


async def test_a_range_out_of_the_file_has_openais_error_and_the_files_size(
    client: httpx.AsyncClient,
) -> None:
    response = await client.get("/range")
    error(response, 416, "range_not_satisfiable")
    assert response.headers["Content-Range"] == "bytes */5"


async def test_a_body_that_does_not_say_its_length_is_limited_too(client: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield b" " * (_LIMIT // 3)

    error(await client.post("/checked", content=body(), headers=JSON), 413, "body_too_large")


@pytest.mark.parametrize(
    ("body", "param", "beginning"),
    [
        ({"unknown": 1}, "unknown", "unknown: "),
        ({NAME: 1}, None, "body: an unknown field: "),
        ({"x" * 200_000: 1}, None, "body: an unknown field: "),
        ({"\ud800": 1}, None, "body: "),
        ({"part": {"text": "", NAME: 1}}, "part", "part: an unknown field: "),
        ({"part": {}}, "part.text", "part.text: "),
        ({"numbers": {NAME: "many"}}, "numbers", "numbers: an unknown field: "),
        ({"content": 5}, "content", "content: "),
        ({"content": [{"text": "a"}, {}]}, "content", "content: "),
        ({"layers": "long"}, "layers", "layers: "),
        ([], None, "body: "),
        (None, None, "body: "),
    ],
)
async def test_a_wrong_field_is_named_and_a_text_in_its_place_is_not(
    client: httpx.AsyncClient,
    body: Any,
    param: str | None,
    beginning: str,
) -> None:
    # Not httpx's JSON, which has no lone surrogates.
    sent = await client.post("/checked", content=json.dumps(body), headers=JSON)
    found = error(sent, 400, "invalid_parameter")
    assert found["param"] == param
    assert found["message"].startswith(beginning)
    assert NAME not in found["message"]
    assert len(found["message"]) < 200


@pytest.mark.parametrize("path", ["/v1/reports/", "/v1/evaluations/", "/healthz/", f"/v1/models/{NAME}/"])
async def test_a_slash_too_many_is_no_redirect(client: httpx.AsyncClient, path: str) -> None:
    """It would name http behind a proxy with TLS, and have the body sent once more for all to read."""
    response = await client.post(path, json={"impression": NAME})
    assert "slash" in error(response, 404, "not_found")["message"]
    assert "Location" not in response.headers
    assert NAME not in response.text


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"])
async def test_the_reference_page_needs_no_redirect(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("said", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_that_is_not_said_to_be_json(client: httpx.AsyncClient, said: str | None) -> None:
    headers = {"Content-Type": said} if said else {}
    sent = await client.post("/checked", content=json.dumps({"content": NAME}), headers=headers)
    assert error(sent, 400, "wrong_content_type")["message"] == "send Content-Type: application/json"


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (json.dumps({"content": NAME}, ensure_ascii=False).encode("cp1251"), {}, "is not UTF-8 text"),
        (gzip.compress(b"{}", mtime=0), {"Content-Encoding": "gzip"}, "is compressed"),
        (b"\x00\x01{}", {"Content-Encoding": "br"}, "is compressed"),
        (gzip.compress(b"{}", mtime=0), {}, "is not UTF-8 text"),
        (b"[" * 200_000, {}, "nested too deeply"),
        (b"1" * 5_000, {}, "is not valid JSON"),
        (b"{", {}, "is not valid JSON"),
    ],
)
async def test_a_body_that_is_no_json(
    client: httpx.AsyncClient, content: bytes, headers: dict[str, str], message: str
) -> None:
    sent = await client.post("/checked", content=content, headers=JSON | headers)
    assert message in error(sent, 400, "invalid_json")["message"]


async def test_a_file_that_is_sent_as_text(client: httpx.AsyncClient) -> None:
    """curl without the @."""
    sent = await client.post("/uploaded", files=[("files", (None, NAME))])
    found = error(sent, 400, "invalid_parameter")
    assert found["param"] == "files.0"
    assert "as a file" in found["message"]
    assert NAME not in found["message"]
    sent = await client.post("/uploaded", data={"files": NAME})
    assert "as a file" in error(sent, 400, "invalid_parameter")["message"]


async def test_a_large_file_that_is_sent_as_text(app: FastAPI) -> None:
    app = create_app(GatewaySettings())
    app.state.services = Mock()  # any key is good
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
    client.headers["Authorization"] = "Bearer x"
    sent = await client.post("/v1/files", files={"file": (None, "x" * 2**21)})
    assert "file name" in error(sent, 400, "invalid_form")["message"]


async def test_a_form_that_is_none(client: httpx.AsyncClient) -> None:
    sent = await client.post("/uploaded", json={"files": NAME})
    assert error(sent, 400, "wrong_content_type")["message"] == "send Content-Type: multipart/form-data"
    sent = await client.post("/uploaded", content=b"x", headers={"Content-Type": "multipart/form-data"})
    assert "boundary" in error(sent, 400, "invalid_form")["message"]


async def test_an_object_that_is_gone_is_not_named_by_its_key(client: httpx.AsyncClient) -> None:
    with capture_logs() as logged:
        response = await client.get("/stored")
    error(response, 404, "not_found")
    assert KEY not in response.text
    assert "object_missing" in [line["event"] for line in logged]

"""What a caller sees when the inference server is away or breaks in the middle.

A small server plays the faults that a real one cannot be made to have; what a healthy one
answers is tested end to end with real vLLM.
"""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef, adapter_prefix
from narrowcast.artifacts import publish
from narrowcast.connections import Connections
from narrowcast_gateway.app import create_app
from narrowcast_gateway.settings import GatewaySettings, ServersSettings

BASE = "smollm2-135m-instruct"
CHAT = {"model": BASE, "messages": [{"role": "user", "content": "Пациент Иванов"}]}
Error = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_is_down_is_503(gateway: Any, error: Error, stream: bool) -> None:
    response = gateway.http.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    error(response, 503, "inference_unavailable")


def test_a_report_from_a_server_that_is_down_is_503(gateway: Any, error: Error) -> None:
    body = {"model": BASE, "impression": "Киста Бейкера"}
    error(gateway.http.post("/v1/reports", json=body), 503, "inference_unavailable")


def test_a_server_that_is_down_does_not_make_the_gateway_unready(gateway: Any) -> None:
    ready = gateway.http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["inference"] == {BASE: "unavailable"}


class _Faulty(BaseHTTPRequestHandler):
    """Answers with the fault that the server was told to have."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.fault  # type: ignore[attr-defined]
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", "100000")
            self.end_headers()
            chunk = {"id": "x", "model": "secret-name", "choices": [{"delta": {"content": "а"}}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            return  # the rest never comes
        status, headers, body = fault
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def faulty() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Faulty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(
    gateway_settings: GatewaySettings, connections: Connections, tenant: str, faulty: Any
) -> Iterator[TestClient]:
    servers = ServersSettings.model_validate({"bases": {BASE: f"http://127.0.0.1:{faulty.server_port}"}})
    with TestClient(create_app(gateway_settings.model_copy(update={"servers": servers}))) as http:
        key = http.app.state.services.keys.create(tenant)
        http.headers["Authorization"] = f"Bearer {key}"
        yield http


QUOTING = json.dumps({"error": {"message": "bad: Пациент Иванов", "code": 400}})


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ((400, {}, QUOTING), 400, "invalid_request"),
        ((500, {}, "Traceback: Пациент Иванов"), 503, "inference_failed"),
        ((502, {}, "<html>Bad Gateway</html>"), 503, "inference_unavailable"),
        ((400, {}, "maximum context length is 2048"), 400, "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_servers_error_text_is_not_passed_on(
    client: TestClient, faulty: Any, error: Error, fault: Any, status: int, code: str, stream: bool
) -> None:
    faulty.fault = fault
    response = client.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    error(response, status, code)
    assert "Иванов" not in response.text


def _refusal(message: str, param: str | None) -> tuple[int, dict[str, str], str]:
    """Return a 400 as vLLM words it."""
    return 400, {}, json.dumps({"error": {"message": message, "param": param, "code": 400}})


TOO_LONG_PROMPT = _refusal("This model's maximum context length is 512 tokens. However, ...", "input_tokens")
TOO_LONG_ANSWER = "{0}=1000 cannot be greater than max_model_len=512. Please request fewer output tokens."


@pytest.mark.parametrize("given", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_longer_answer_than_the_context_is_named_as_it_was_asked_for(
    client: TestClient, faulty: Any, error: Error, given: str, stream: bool
) -> None:
    faulty.fault = _refusal(TOO_LONG_ANSWER.format(given), given)
    response = client.post("/v1/chat/completions", json=CHAT | {given: 1000, "stream": stream})
    assert error(response, 400, "context_length_exceeded")["param"] == given


@pytest.mark.parametrize("stream", [False, True])
def test_a_longer_chat_than_the_context_is_named_as_such(
    client: TestClient, faulty: Any, error: Error, stream: bool
) -> None:
    faulty.fault = TOO_LONG_PROMPT
    response = client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 10, "stream": stream})
    assert error(response, 400, "context_length_exceeded")["param"] == "messages"


@pytest.mark.parametrize(
    ("fault", "param"),
    [
        (TOO_LONG_PROMPT, "impression"),
        (_refusal(TOO_LONG_ANSWER.format("max_tokens"), "max_tokens"), "max_tokens"),
    ],
)
def test_a_report_that_does_not_fit_the_context_names_a_field_that_it_has(
    client: TestClient, faulty: Any, error: Error, fault: Any, param: str
) -> None:
    faulty.fault = fault
    body = {"model": BASE, "impression": "Пациент Иванов", "max_tokens": 1000}
    assert error(client.post("/v1/reports", json=body), 400, "context_length_exceeded")["param"] == param


@pytest.mark.parametrize(
    ("message", "param", "named"),
    [
        ("seed is refused: Иванов", "seed", "seed"),
        ("1 validation error: Иванов", "body.seed", "seed"),
        ("1 validation error: Иванов", "body.messages.0.content", "messages"),
        ("seed must be otherwise, got Иванов", None, "seed"),
        ("Иванов", "Иванов", None),
        ("Иванов is refused", None, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_parameter_that_the_server_names_is_named(
    client: TestClient, faulty: Any, error: Error, message: str, param: str, named: str, stream: bool
) -> None:
    faulty.fault = _refusal(message, param)
    response = client.post("/v1/chat/completions", json=CHAT | {"seed": 1, "stream": stream})
    refused = error(response, 400, "invalid_request")
    assert refused["param"] == named
    assert (named or "a parameter") in refused["message"]
    assert "Иванов" not in response.text


def test_an_adapter_that_cannot_be_loaded_says_why(
    client: TestClient, faulty: Any, error: Error, tenant: str
) -> None:
    manifest = AdapterManifest(
        id="mri-1",
        tenant=tenant,
        base=BaseModelRef(name=BASE, fingerprint="0"),
        prompt=PromptRef(template="report-v1", hash="0", default_instruction="i"),
        rank=8,
        engine="peft",
        dataset="d",
        job="j",
    )
    models = client.app.state.services.connections.storage.models
    publish(models, adapter_prefix(tenant, "mri-1"), {"adapter_config.json": b"{}"}, manifest)
    faulty.fault = (404, {"x-narrowcast-error-code": "wrong_base_model"}, "{}")
    response = client.post("/v1/chat/completions", json=CHAT | {"model": "mri-1"})
    assert "wrong_base_model" in error(response, 503, "adapter_not_loaded")["message"]


def test_a_stream_that_breaks_ends_in_an_error_event(client: TestClient, faulty: Any) -> None:
    faulty.fault = "cut"
    response = client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    assert response.status_code == 200
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert json.loads(events[0])["model"] == BASE, "the user's name of the model, not vLLM's"
    assert json.loads(events[-1])["error"]["code"] == "inference_unavailable"
    assert "[DONE]" not in events

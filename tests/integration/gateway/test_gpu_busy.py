"""What callers and evaluations see while a training job has the inference server's GPU.

A small server answers as a sleeping one does; that a real one does so is tested in
tests/integration/inference/test_gpu_sharing.py.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient

from narrowcast.artifacts import publish
from narrowcast.connections import Connections
from narrowcast.datasets import DatasetManifest, Row, dataset_prefix, split_file, to_jsonl
from narrowcast.ids import new_id
from narrowcast.jobs.records import Job, JobStatus
from narrowcast.jobs.running import run_job
from narrowcast.prompts import TEMPLATE_ID
from narrowcast_gateway.app import create_app
from narrowcast_gateway.evaluation.job import evaluate
from narrowcast_gateway.generation import client as generation_client
from narrowcast_gateway.settings import GatewaySettings, ServersSettings

BASE = "smollm2-135m-instruct"
CHAT = {"model": BASE, "messages": [{"role": "user", "content": "Киста"}]}
BUSY = {"error": {"code": "gpu_busy_training", "message": "asleep", "param": None}}
ANSWER = {
    "choices": [{"message": {"content": "Киста не выявлена."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
_WAIT_S = 30


class _Inference(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1  # type: ignore[attr-defined]
        busy = self.server.asleep  # type: ignore[attr-defined]
        self.send_response(503 if busy else 200)
        if busy:
            self.send_header("x-narrowcast-error-code", "gpu_busy_training")
            self.send_header("Retry-After", "30")
        body = json.dumps(BUSY if busy else ANSWER).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def inference() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Inference)
    server.asleep = True
    server.asked = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def shared_gpu(gateway_settings: GatewaySettings, inference: Any) -> GatewaySettings:
    bases = {"bases": {BASE: f"http://127.0.0.1:{inference.server_port}"}}
    return gateway_settings.model_copy(update={"servers": ServersSettings.model_validate(bases)})


@pytest.fixture
def client(shared_gpu: GatewaySettings, connections: Connections, tenant: str) -> Iterator[TestClient]:
    with TestClient(create_app(shared_gpu)) as http:
        http.headers["Authorization"] = f"Bearer {http.app.state.services.keys.create(tenant)}"
        yield http


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", CHAT | {"stream": True}),
        ("/v1/reports", {"model": BASE, "impression": "Киста Бейкера"}),
    ],
)
def test_a_caller_is_told_to_try_again(
    client: TestClient, error: Callable[..., dict[str, Any]], path: str, body: dict[str, Any]
) -> None:
    response = client.post(path, json=body)
    assert "try again" in error(response, 503, "gpu_busy_training")["message"]
    assert response.headers["Retry-After"] == "30"


def test_the_gateway_stays_ready(client: TestClient) -> None:
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["inference"]) == (200, {BASE: "ok"})


@pytest.fixture
def evaluation(client: TestClient, tenant: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A queued evaluation of the base model."""
    monkeypatch.setattr(generation_client, "_ASK_AGAIN_S", 1)
    row = Row(instruction="Опиши.", input="Киста.", output="Киста не выявлена.", document="d")
    dataset = new_id("dataset")
    manifest = DatasetManifest(
        id=dataset, tenant=tenant, source="corpus-0", rows={"test": 3}, prompt_template=TEMPLATE_ID
    )
    data = client.app.state.services.connections.storage.data  # type: ignore[attr-defined]
    publish(data, dataset_prefix(tenant, dataset), {split_file("test"): to_jsonl([row] * 3)}, manifest)
    response = client.post("/v1/evaluations", json={"dataset": dataset, "models": [BASE]})
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


@pytest.fixture
def run(client: TestClient, shared_gpu: GatewaySettings, evaluation: str) -> Iterator[Callable[[], Job]]:
    """Does what the CPU worker does, in the background; call it for the job as it is."""
    services = client.app.state.services  # type: ignore[attr-defined]
    jobs = services.connections.jobs
    arguments = (jobs, shared_gpu.jobs, evaluation, lambda running: evaluate(running, services, shared_gpu))
    worker = threading.Thread(target=run_job, args=arguments)
    worker.start()
    yield lambda: jobs.get(evaluation)
    worker.join(_WAIT_S)
    assert not worker.is_alive()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_evaluation_sits_the_training_out(run: Callable[[], Job], inference: Any) -> None:
    _until(lambda: inference.asked > 6)  # each of the three rows more than once, beyond any attempts
    assert run().status is JobStatus.RUNNING
    inference.asleep = False
    _until(lambda: run().status.terminal)
    assert (run().status, run().attempt) == (JobStatus.SUCCEEDED, 1)
    assert run().progress == {"done": 3, "total": 3}


def test_an_evaluation_that_waits_can_be_cancelled(
    run: Callable[[], Job], client: TestClient, evaluation: str, inference: Any
) -> None:
    _until(lambda: inference.asked > 0)
    client.app.state.services.connections.jobs.request_cancel(evaluation)  # type: ignore[attr-defined]
    _until(lambda: run().status.terminal)
    assert run().status is JobStatus.CANCELLED

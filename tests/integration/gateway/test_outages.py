"""Corpora and evaluations while the object store or an inference server is away for a while: they go on after it."""

import io
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from narrowcast.connections import Connections
from narrowcast.jobs.records import Job, JobStatus
from narrowcast.jobs.running import run_job
from narrowcast.settings import StorageSettings
from narrowcast_gateway.app import create_app
from narrowcast_gateway.corpora.job import preprocess
from narrowcast_gateway.evaluation.job import evaluate
from narrowcast_gateway.settings import GatewaySettings, ServersSettings

from .serving import BASE

SAMPLES = Path(__file__).parents[3] / "tools" / "samples"
ANSWER = {
    "choices": [{"message": {"content": "Киста не выявлена."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
_MORE_THAN_ATTEMPTS = 5
_WAIT_S = 60


@contextmanager
def site(settings: GatewaySettings, tenant: str) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as http:
        http.headers["Authorization"] = f"Bearer {http.app.state.services.keys.create(tenant)}"  # type: ignore[attr-defined]
        yield http


def goes_on_after(tries: Callable[[], Job], back: Any) -> Job:
    """Try the job more often than it has attempts, then until it has ended, once ``back`` is there."""
    for _ in range(_MORE_THAN_ATTEMPTS):
        waiting = tries()
        assert (waiting.status, waiting.attempt) == (JobStatus.QUEUED, 0)
        assert waiting.outage_since is not None
    with back:
        deadline = time.monotonic() + _WAIT_S
        while not (job := tries()).status.terminal:
            assert time.monotonic() < deadline, (
                "SeaweedFS answers before it has found its disk, but not so long"
            )
            time.sleep(0.5)
    return job


def test_a_corpus_and_its_originals_outlast_an_object_store_that_is_away(
    gateway_settings: GatewaySettings,
    connections: Connections,
    tenant: str,
    servers: Any,
    running: Any,
    tmp_path: Path,
) -> None:
    port = servers.free_port()
    storage = StorageSettings.model_validate({"endpoint": f"127.0.0.1:{port}", "secret_key": "test-secret"})
    server = servers.seaweedfs(tmp_path / "s3", port, storage.access_key, "test-secret")
    settings = gateway_settings.model_copy(update={"storage": storage})

    ready = partial(servers.buckets_ready, storage)

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(SAMPLES.glob("report-*.doc*"))[:4]:
            archive.write(path, path.name)
    with site(settings, tenant) as http:
        services = http.app.state.services  # type: ignore[attr-defined]
        jobs = services.connections.jobs
        with running(server.command, ready):
            response = http.post("/v1/corpora", files={"files": ("corpus.zip", buffer.getvalue())})
            assert response.status_code == 202, response.text
            corpus = response.json()["id"]

        def tries() -> Job:
            run_job(jobs, settings.jobs, corpus, lambda job: preprocess(job, services))
            found: Job = jobs.get(corpus)
            return found

        done = goes_on_after(tries, running(server.command, ready))
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 1)
    assert done.result["documents"]["read"] == 4


def test_a_corpus_outlasts_a_full_temporary_disk(
    gateway_settings: GatewaySettings,
    connections: Connections,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = next(iter(sorted(SAMPLES.glob("report-*.doc*"))))
    with site(gateway_settings, tenant) as http:
        services = http.app.state.services  # type: ignore[attr-defined]
        corpus = http.post("/v1/corpora", files={"files": (report.name, report.read_bytes())}).json()["id"]

        def tries() -> Job:
            run_job(connections.jobs, gateway_settings.jobs, corpus, lambda job: preprocess(job, services))
            return connections.jobs.get(corpus)

        with monkeypatch.context() as full:
            full.setattr(
                "narrowcast_gateway.corpora.job.tempfile.TemporaryFile", partial(open, "/dev/full", "r+b")
            )
            waiting = tries()
        assert (waiting.status, waiting.attempt) == (JobStatus.QUEUED, 0)
        said = [event.message for event in connections.jobs.events(corpus, tenant)]
        assert any("free some space" in message for message in said), said
        deadline = time.monotonic() + _WAIT_S
        while not (done := tries()).status.terminal:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 1)


class _Inference(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def inference(port: int, handler: type[BaseHTTPRequestHandler] = _Inference) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def test_an_evaluation_outlasts_an_inference_server_that_is_away(
    gateway_settings: GatewaySettings, connections: Connections, tenant: str, servers: Any
) -> None:
    port = servers.free_port()
    bases = ServersSettings.model_validate({"bases": {BASE: f"http://127.0.0.1:{port}"}})
    settings = gateway_settings.model_copy(update={"servers": bases})
    row = {"instruction": "Опиши", "input": "Киста", "output": "Киста не выявлена."}
    with site(settings, tenant) as http:
        files = {"file": ("rows.jsonl", json.dumps(row, ensure_ascii=False))}
        rows = http.post("/v1/files", files=files, data={"purpose": "fine-tune"}).json()["id"]
        asked = {"dataset": rows, "split": "train", "models": [BASE]}
        evaluation = http.post("/v1/evaluations", json=asked).json()["id"]
        services = http.app.state.services  # type: ignore[attr-defined]
        jobs = services.connections.jobs

        def tries() -> Job:
            run_job(jobs, settings.jobs, evaluation, lambda job: evaluate(job, services, settings))
            found: Job = jobs.get(evaluation)
            return found

        done = goes_on_after(tries, inference(port))
        told = jobs.events(evaluation, tenant)
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 1)
    codes = [event.data["code"] for event in told if event.level == "warn"]
    assert codes == ["inference_unavailable"] * _MORE_THAN_ATTEMPTS


def test_an_evaluation_that_brings_the_server_down_does_not_do_so_for_hours(
    gateway_settings: GatewaySettings, connections: Connections, tenant: str, servers: Any
) -> None:
    """Some rows are answered, and then a prompt is too much for it; each attempt begins with the first row."""
    port = servers.free_port()
    bases = ServersSettings.model_validate({"bases": {BASE: f"http://127.0.0.1:{port}"}})
    settings = gateway_settings.model_copy(update={"servers": bases})
    settings.evaluation.concurrency = 1

    class Falling(_Inference):
        def do_POST(self) -> None:
            if "Убийца" in self.rfile.read(int(self.headers["Content-Length"])).decode():
                self.close_connection = True
                return
            self.headers.replace_header("Content-Length", "0")
            super().do_POST()

    rows = [{"instruction": "Опиши", "input": text, "output": "Киста."} for text in ("Киста", "Убийца")]
    with site(settings, tenant) as http, inference(port, Falling):
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        files = {"file": ("rows.jsonl", lines)}
        file_id = http.post("/v1/files", files=files, data={"purpose": "fine-tune"}).json()["id"]
        asked = {"dataset": file_id, "split": "train", "models": [BASE]}
        evaluation = http.post("/v1/evaluations", json=asked).json()["id"]
        services = http.app.state.services  # type: ignore[attr-defined]
        jobs = services.connections.jobs
        for attempt in range(1, settings.jobs.max_attempts + 1):
            run_job(jobs, settings.jobs, evaluation, lambda job: evaluate(job, services, settings))
            job = jobs.get(evaluation)
            assert (job.attempt, job.outage_since) == (attempt, None)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.code == "inference_unavailable"

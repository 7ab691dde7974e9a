"""The gateway and the CPU worker as processes, asked by a real Prometheus."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from narrowcast.connections import Connections
from narrowcast.jobs.records import JobStatus
from narrowcast.settings import Settings
from narrowcast_gateway.keys.service import ApiKeys
from narrowcast_local.stack.servers import free_port

REPOSITORY = Path(__file__).parents[3]
SAMPLES = REPOSITORY / "tools" / "samples"
MONITORING = REPOSITORY / "deploy" / "monitoring"
_WAIT_S = 90


@contextmanager
def program(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            if holds():
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@dataclass(frozen=True)
class Running:
    api: str
    ports: dict[str, int]
    """Of the metrics, by service."""
    folder: Path

    def metrics(self, service: str) -> dict[str, float]:
        """Return every sample that a service shows, by its text up to the value."""
        text = httpx.get(f"http://127.0.0.1:{self.ports[service]}/metrics", timeout=10).text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


@pytest.fixture
def running(settings: Settings, connections: Connections, tmp_path: Path) -> Iterator[Running]:
    ports = {"gateway": free_port(), "worker": free_port()}
    api = free_port()
    common = {
        "NARROWCAST_REDIS__URL": settings.redis.url.get_secret_value(),
        "NARROWCAST_STORAGE__ENDPOINT": settings.storage.endpoint,
        "NARROWCAST_STORAGE__SECRET_KEY": settings.storage.secret_key.get_secret_value(),
        "NARROWCAST_HTTP__PORT": str(api),
        "NARROWCAST_JOBS__REAP_EVERY_S": "0.2",
        "NARROWCAST_WORKER__HEARTBEAT_FILE": str(tmp_path / "heartbeat"),
    }
    modules = {"gateway": "narrowcast_gateway", "worker": "narrowcast_gateway.worker"}
    with ExitStack() as stack:
        for service, module in modules.items():
            environment = common | {"NARROWCAST_METRICS__PORT": str(ports[service])}
            command = [sys.executable, "-m", module]
            stack.enter_context(program(command, environment, tmp_path / f"{service}.log"))
        found = Running(f"http://127.0.0.1:{api}", ports, tmp_path)
        for service in modules:
            wait_until(lambda service=service: bool(found.metrics(service)), f"no metrics of {service}")  # type: ignore[misc]
        wait_until(lambda: httpx.get(f"{found.api}/healthz").is_success, "the API did not come up")
        yield found


def preprocess(running: Running, connections: Connections, tenant: str) -> None:
    """Send a corpus of which one file is no document; wait until it is a dataset."""
    key = ApiKeys(connections.redis).create(tenant)
    paths = sorted(SAMPLES.glob("report-0000*.docx"))
    files = [("files", (path.name, path.read_bytes())) for path in paths]
    files.append(("files", ("Тестомиров.docx", b"no document")))
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{running.api}/v1/corpora", files=files, headers=headers, timeout=60)
    assert answer.status_code == 202, answer.text
    corpus: str = answer.json()["id"]
    wait_until(lambda: connections.jobs.get(corpus).status.terminal, "the corpus was not done")
    assert connections.jobs.get(corpus).status is JobStatus.SUCCEEDED


def test_both_processes_show_what_happened(running: Running, connections: Connections, tenant: str) -> None:
    preprocess(running, connections, tenant)
    httpx.get(f"{running.api}/Testomirov")
    httpx.request("TESTOMIROV", f"{running.api}/healthz")

    gateway = running.metrics("gateway")
    accepted = 'narrowcast_http_requests_total{method="POST",route="/v1/corpora",status="202"}'
    assert gateway[accepted] == 1
    assert gateway["narrowcast_redis_up"] == 1
    assert gateway['narrowcast_jobs_ended_total{kind="preprocessing",outcome="succeeded"}'] == 1
    assert gateway['narrowcast_jobs{kind="preprocessing",status="running"}'] == 0
    durations = 'narrowcast_job_duration_seconds_bucket{kind="preprocessing",le="+Inf",outcome="succeeded"}'
    assert gateway[durations] == 1
    documents = {name: count for name, count in gateway.items() if name.startswith("narrowcast_documents")}
    assert documents['narrowcast_documents_processed_total{outcome="read"}'] >= 1
    assert sum(documents.values()) == len(list(SAMPLES.glob("report-0000*.docx"))) + 1

    worker = running.metrics("worker")
    assert worker['narrowcast_reaper_sweeps_total{outcome="ok"}'] > 0
    shown = "\n".join([*gateway, *worker])
    assert not [text for text in ("estomirov", "ESTOMIROV", "Тестомиров", tenant) if text in shown]
    assert "TESTOMIROV" not in (running.folder / "gateway.log").read_text()


def test_a_real_prometheus_takes_the_metrics_and_the_dashboard_s_queries(
    running: Running, connections: Connections, tenant: str
) -> None:
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    preprocess(running, connections, tenant)
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    jobs = [job for job in config["scrape_configs"] if job["job_name"] in running.ports]
    for job in jobs:
        # The names of the configuration are those of containers.
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{running.ports[job['job_name']]}"]}]
    config["scrape_configs"] = jobs
    (running.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        binary,
        f"--config.file={running.folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={running.folder / 'tsdb'}",
        f"--web.listen-address={url.removeprefix('http://')}",
    ]
    with program(command, {}, running.folder / "prometheus.log"):

        def ask(query: str) -> list[dict[str, Any]]:
            answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=10)
            assert answer.json()["status"] == "success", (query, answer.text)
            found: list[dict[str, Any]] = answer.json()["data"]["result"]
            return found

        wait_until(lambda: httpx.get(f"{url}/-/ready").is_success, "Prometheus did not come up")
        wait_until(lambda: len(ask("up == 1")) == len(jobs), "a target is down")
        wait_until(lambda: bool(ask("rate(narrowcast_http_requests_total[1m])")), "there is no rate")
        answers = {query: ask(query) for query in queries()}
    empty = [query for query, found in answers.items() if not found]
    # What only a trainer, vLLM, MinIO, a stream or a failed job shows; everything else has a value.
    absent = re.compile(r"training_|vllm:|minio_|adapter|stream_first_event|job_failures")
    assert [query for query in empty if not absent.search(query)] == []
    assert len(answers) > len(empty) + 15


def queries() -> list[str]:
    dashboard = json.loads((MONITORING / "grafana" / "dashboards" / "narrowcast.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [query.replace("$__rate_interval", "1m") for query in found]

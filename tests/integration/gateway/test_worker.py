"""The CPU worker as a real process: it works, it is killed, it is told to stop."""

import io
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from narrowcast.jobs.records import Job, JobStatus
from narrowcast.settings import Settings

SAMPLES = Path(__file__).parents[3] / "tools" / "samples"
_COPIES = 30
_WAIT_S = 90


@pytest.fixture(scope="module")
def corpus() -> bytes:
    """A corpus that takes some seconds: the shipped files, many times over."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for copy in range(_COPIES):
            for path in sorted(SAMPLES.glob("report-*.doc*")):
                archive.write(path, f"{copy}/{path.name}")
    return buffer.getvalue()


@contextmanager
def worker(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "NARROWCAST_REDIS__URL": settings.redis.url.get_secret_value(),
        "NARROWCAST_STORAGE__ENDPOINT": settings.storage.endpoint,
        "NARROWCAST_STORAGE__SECRET_KEY": settings.storage.secret_key.get_secret_value(),
        "NARROWCAST_JOBS__LEASE_S": "2",
        "NARROWCAST_JOBS__REAP_EVERY_S": "0.2",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "narrowcast_gateway.worker"],
        env=environment,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(gateway: Any, corpus_id: str, holds: Callable[[Job], bool]) -> Job:
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        job: Job = gateway.services.connections.jobs.get(corpus_id)
        if holds(job):
            return job
        time.sleep(0.05)
    raise AssertionError(f"still {job.status} {job.progress} after {_WAIT_S} s")


def under_way(job: Job) -> bool:
    return job.status is JobStatus.RUNNING and job.progress.get("read", 0) > 0


def submit(gateway: Any, corpus: bytes) -> str:
    response = gateway.http.post("/v1/corpora", files={"files": ("corpus.zip", corpus)})
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def test_a_killed_workers_job_is_done_by_the_next(gateway: Any, settings: Settings, corpus: bytes) -> None:
    corpus_id = submit(gateway, corpus)
    with worker(settings) as process:
        wait_for(gateway, corpus_id, under_way)
        os.killpg(process.pid, signal.SIGKILL)
    assert gateway.services.connections.jobs.get(corpus_id).status is JobStatus.RUNNING
    with worker(settings):
        done = wait_for(gateway, corpus_id, lambda job: job.status.terminal)
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 2)
    assert done.result["documents"]["read"] == 40 * _COPIES
    datasets = gateway.http.get("/v1/datasets").json()["data"]
    assert [dataset["id"] for dataset in datasets] == [done.result["dataset"]], "nothing half-written"


def test_a_worker_told_to_stop_gives_its_job_back(gateway: Any, settings: Settings, corpus: bytes) -> None:
    corpus_id = submit(gateway, corpus)
    with worker(settings) as process:
        wait_for(gateway, corpus_id, under_way)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
    job = gateway.services.connections.jobs.get(corpus_id)
    assert (job.status, job.attempt, job.lease) == (JobStatus.QUEUED, 0, None)


def test_a_running_preprocessing_is_cancelled(gateway: Any, settings: Settings, corpus: bytes) -> None:
    corpus_id = submit(gateway, corpus)
    with worker(settings):
        wait_for(gateway, corpus_id, under_way)
        gateway.http.post(f"/v1/corpora/{corpus_id}/cancel")
        done = wait_for(gateway, corpus_id, lambda job: job.status.terminal)
    assert done.status is JobStatus.CANCELLED
    assert gateway.http.get("/v1/datasets").json()["data"] == []

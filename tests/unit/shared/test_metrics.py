"""The metrics server, the counts of a transition, and what a scrape shows when Redis is away."""

import os
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from narrowcast.jobs.counters import Requeue, increments
from narrowcast.jobs.metrics import JobMetrics
from narrowcast.jobs.records import Job, JobError, JobKind, JobStatus
from narrowcast.metrics import code_label, serve
from narrowcast.settings import MetricsSettings, RedisSettings
from narrowcast_local.stack.servers import free_port


@pytest.mark.parametrize(
    ("code", "label"),
    [
        ("worker_lost", "worker_lost"),
        ("Иванов Иван", "other"),
        ("ivanov ivan", "other"),
        ("", "other"),
        ("a\nb", "other"),
        ("x" * 49, "other"),
    ],
)
def test_what_does_not_look_like_a_code_is_no_label(code: str, label: str) -> None:
    assert code_label(code) == label


def test_metrics_are_served_and_a_forked_process_does_not_keep_the_port() -> None:
    port = free_port()
    serve(MetricsSettings(port=port))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        assert b"process_resident_memory_bytes" in response.read()
    inode = _inode(port)
    assert any(os.fstat(number).st_ino == inode for number in descriptors()), "the test looks at sockets"
    child = os.fork()
    if child == 0:
        os._exit(any(os.fstat(number).st_ino == inode for number in descriptors()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(OSError, match="in use"):
        serve(MetricsSettings(port=port))


def _inode(port: int) -> int:
    """Return the inode of the socket that listens on the port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return next(int(row[9]) for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A")


def descriptors() -> list[int]:
    """Return this process's open files."""
    found = []
    for number in range(256):
        with suppress(OSError):
            os.fstat(number)
            found.append(number)
    return found


def test_port_0_serves_nothing() -> None:
    serve(MetricsSettings(port=0))


# -- the counts of a transition ------------------------------------------------------------------


def job(kind: JobKind = JobKind.TRAINING) -> Job:
    return Job(id="j-1", kind=kind, tenant="clinic", spec={})


def test_a_success_counts_its_outcome_and_its_duration() -> None:
    running = job().claimed("w", 100.0, 30)
    assert increments(job(), running) == {}
    assert increments(running, running.renewed("w", 200.0, 30)) == {}
    assert increments(running, running.finished(JobStatus.SUCCEEDED, 420.5)) == {
        "ended/training/succeeded": 1,
        "durations/training/succeeded/900": 1,
        "duration_ms/training/succeeded": 320_500,
    }


def test_longer_than_the_last_bucket_and_a_clock_that_went_back() -> None:
    running = job().claimed("w", 100_000.0, 30)
    assert increments(running, running.finished(JobStatus.SUCCEEDED, 200_000.0))[
        "durations/training/succeeded/+Inf"
    ]
    back = increments(running, running.finished(JobStatus.SUCCEEDED, 99_000.0))
    assert back["duration_ms/training/succeeded"] == 0


def test_a_failure_counts_its_code_and_never_foreign_text() -> None:
    running = job(JobKind.EVALUATION).claimed("w", 0.0, 30)
    for code, counted in (("loss_not_finite", "loss_not_finite"), ("Пациент Иванов", "other")):
        error = JobError(code=code, message="…")
        grown = increments(running, running.finished(JobStatus.FAILED, 1.0, error=error))
        assert grown[f"failures/evaluation/{counted}"] == 1
        assert "Иванов" not in str(grown)


def test_a_job_cancelled_before_it_started_has_no_duration() -> None:
    queued = job()
    assert increments(queued, queued.cancellation_requested(9.0)) == {"ended/training/cancelled": 1}


def test_a_job_that_goes_back_counts_why() -> None:
    running = job().claimed("w", 0.0, 30)
    assert increments(running, running.released(1.0), Requeue.WORKER_LOST) == {
        "requeued/training/worker_lost": 1
    }


def test_documents_count_when_their_corpus_is_done() -> None:
    running = job(JobKind.PREPROCESSING).claimed("w", 0.0, 30)
    result = {
        "documents": {"total": 4, "read": 1, "rejected": 3},
        "rejected": [{"code": "no_conclusion"}, {"code": "no_conclusion"}, {"code": "Отчёт Иванова.doc"}],
    }
    grown = increments(running, running.finished(JobStatus.SUCCEEDED, 1.0, result=result))
    assert {name: count for name, count in grown.items() if name.startswith("documents")} == {
        "documents/read": 1,
        "documents/no_conclusion": 2,
        "documents/other": 1,
    }


# -- Redis away ----------------------------------------------------------------------------------


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def scrape(url: str) -> tuple[list[str], float]:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(JobMetrics(RedisSettings.model_validate({"url": url})))
    started = time.monotonic()
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")], time.monotonic() - started


def test_a_scrape_without_redis_says_so_and_nothing_else() -> None:
    lines, _ = scrape(f"redis://127.0.0.1:{free_port()}/0")
    assert lines == ["narrowcast_redis_up 0.0"]


def test_a_redis_that_hangs_does_not_make_the_scrape_hang(silent_port: int) -> None:
    lines, seconds = scrape(f"redis://127.0.0.1:{silent_port}/0")
    assert lines == ["narrowcast_redis_up 0.0"]
    assert seconds < 4


def test_a_look_up_that_hangs_does_not_make_the_scrape_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_args, **_kwargs: time.sleep(6))
    lines, seconds = scrape("redis://redis:6379/0")
    assert lines == ["narrowcast_redis_up 0.0"]
    assert seconds < 4

"""Counts of jobs on a real Redis: each end is counted once, whoever races for it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry

from narrowcast import ids
from narrowcast.connections import Connections
from narrowcast.errors import Conflict, InvalidInput, Unavailable
from narrowcast.jobs.metrics import JobMetrics
from narrowcast.jobs.records import Job, JobError, JobKind, JobStatus, LeaseLost
from narrowcast.jobs.running import Interrupted, RunningJob, run_job
from narrowcast.settings import Settings

RACERS = 8
Value = Callable[..., float | None]


@pytest.fixture
def value(settings: Settings, connections: Connections) -> Value:
    """Scrape, and return one sample of it."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(JobMetrics(settings.redis))

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    return sample


def submitted(connections: Connections, tenant: str, kind: JobKind = JobKind.TRAINING, **changes: Any) -> Job:
    job = Job(id=ids.new_id(kind), kind=kind, tenant=tenant, spec={}, **changes)
    connections.jobs.submit(job)
    return job


def at_once(actions: list[Callable[[], object]]) -> None:
    """Do everything at the same moment; who comes too late is turned away."""
    start = threading.Barrier(len(actions))

    def act(action: Callable[[], object]) -> None:
        start.wait()
        with suppress(Conflict, LeaseLost):
            action()

    with ThreadPoolExecutor(len(actions)) as pool:
        list(pool.map(act, actions))


def test_an_empty_system_shows_zeros(value: Value) -> None:
    assert value("narrowcast_redis_up") == 1
    assert value("narrowcast_jobs", kind="training", status="queued") == 0
    assert value("narrowcast_job_oldest_queued_age_seconds", kind="evaluation") == 0
    assert value("narrowcast_jobs_ended_total", kind="preprocessing", outcome="failed") == 0
    assert value("narrowcast_jobs_requeued_total", kind="training", reason="worker_lost") == 0


def test_waiting_and_running_jobs_by_kind(value: Value, connections: Connections, tenant: str) -> None:
    submitted(connections, tenant, queued_at=time.time() - 100)
    submitted(connections, tenant, queued_at=time.time() - 50)
    running = submitted(connections, tenant, JobKind.EVALUATION, queued_at=time.time() - 500)
    connections.jobs.claim(running.id, "worker")
    assert value("narrowcast_jobs", kind="training", status="queued") == 2
    assert value("narrowcast_jobs", kind="evaluation", status="running") == 1
    assert value("narrowcast_job_oldest_queued_age_seconds", kind="training") == pytest.approx(100, abs=5)
    assert value("narrowcast_job_oldest_queued_age_seconds", kind="evaluation") == 0


def test_a_job_that_many_end_at_once_is_counted_once(
    value: Value, connections: Connections, tenant: str
) -> None:
    jobs = connections.jobs
    for _ in range(10):
        job = submitted(connections, tenant)
        jobs.claim(job.id, "worker")
        lost = JobError(code="internal_error", message="…")
        at_once(
            [partial(jobs.finish, job.id, "worker", JobStatus.SUCCEEDED)] * 3
            + [partial(jobs.finish, job.id, "worker", JobStatus.FAILED, error=lost)] * 3
            + [partial(jobs.request_cancel, job.id), partial(jobs.renew, job.id, "worker")]
        )
    ends = {
        outcome: value("narrowcast_jobs_ended_total", kind="training", outcome=outcome) or 0
        for outcome in ("succeeded", "failed", "cancelled")
    }
    assert sum(ends.values()) == 10
    assert ends["cancelled"] == 0
    failures = value("narrowcast_job_failures_total", kind="training", code="internal_error") or 0
    assert failures == ends["failed"]
    timed = [
        value("narrowcast_job_duration_seconds_count", kind="training", outcome=outcome) or 0
        for outcome in ends
    ]
    assert timed == list(ends.values())


def test_a_job_that_many_reap_at_once_is_counted_once(
    value: Value, connections: Connections, settings: Settings, tenant: str
) -> None:
    jobs = connections.jobs
    job = submitted(connections, tenant)
    for attempt in range(settings.jobs.max_attempts):
        jobs.claim(job.id, f"worker-{attempt}")
        at_once([lambda: jobs.reap(job.id, time.time() + 1000)] * RACERS)
    requeued = value("narrowcast_jobs_requeued_total", kind="training", reason="worker_lost")
    assert requeued == settings.jobs.max_attempts - 1
    assert value("narrowcast_jobs_ended_total", kind="training", outcome="failed") == 1
    assert value("narrowcast_job_failures_total", kind="training", code="worker_lost") == 1


def test_how_jobs_end_in_a_worker(
    value: Value, connections: Connections, settings: Settings, tenant: str
) -> None:
    def run(outcome: Exception | None) -> None:
        def handler(_: RunningJob) -> dict[str, Any]:
            if outcome is not None:
                raise outcome
            return {}

        job = submitted(connections, tenant, JobKind.EVALUATION)
        run_job(connections.jobs, settings.jobs, job.id, handler)

    for outcome in (None, InvalidInput("no", code="row_too_long"), Interrupted(), Unavailable("away")):
        run(outcome)
    assert value("narrowcast_jobs_ended_total", kind="evaluation", outcome="succeeded") == 1
    assert value("narrowcast_job_failures_total", kind="evaluation", code="row_too_long") == 1
    assert value("narrowcast_jobs_requeued_total", kind="evaluation", reason="interrupted") == 1
    assert value("narrowcast_jobs_requeued_total", kind="evaluation", reason="unavailable") == 1
    in_a_second = {"kind": "evaluation", "outcome": "succeeded", "le": "1"}
    assert value("narrowcast_job_duration_seconds_bucket", **in_a_second) == 1
    assert value("narrowcast_job_duration_seconds_bucket", **in_a_second | {"le": "+Inf"}) == 1
    assert (value("narrowcast_job_duration_seconds_sum", kind="evaluation", outcome="succeeded") or 9) < 1


def test_an_answer_of_redis_that_is_lost_counts_once(
    value: Value, connections: Connections, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction goes through, its answer does not arrive: the client must not count again."""
    job = submitted(connections, tenant)
    connections.jobs.claim(job.id, "worker")
    real = redis.client.Pipeline._execute_transaction
    lost: list[bool] = []

    def lose_the_first(pipe: Any, *arguments: Any, **more: Any) -> Any:
        answer = real(pipe, *arguments, **more)
        if not lost:
            lost.append(True)
            raise redis.ConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(redis.client.Pipeline, "_execute_transaction", lose_the_first)
    with suppress(redis.RedisError, LeaseLost):
        connections.jobs.finish(job.id, "worker", JobStatus.SUCCEEDED)
    assert lost
    assert value("narrowcast_jobs_ended_total", kind="training", outcome="succeeded") == 1

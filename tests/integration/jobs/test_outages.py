"""Jobs while something that they need does not answer: a real Redis, and an S3 server that is killed."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from narrowcast.connections import Connections, connect
from narrowcast.errors import Outage, Unavailable
from narrowcast.jobs import records
from narrowcast.jobs.reaper import Reaper
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.jobs.running import Interrupted, RunningJob, run_job
from narrowcast.jobs.writing import record_key
from narrowcast.settings import JobSettings, Settings, StorageSettings

from .records import new_job, queue_length

AWAY = Outage("the object store does not answer", code="storage_unavailable")
MORE_THAN_ATTEMPTS = 5


def failing(error: Exception) -> Any:
    def handler(_: RunningJob) -> dict[str, Any]:
        raise error

    return handler


def submitted(connections: Connections, tenant: str) -> Job:
    job = new_job(tenant, JobKind.EVALUATION)
    connections.jobs.submit(job)
    return job


def tried(connections: Connections, settings: JobSettings, job: Job, error: Exception) -> Job:
    """Return the job after one attempt more, as if its wait were over."""
    run_job(connections.jobs, settings, job.id, failing(error))
    return connections.jobs.get(job.id)


def began_ago(connections: Connections, job: Job, seconds: float) -> None:
    """Let the outage that the job waits out have begun so long ago."""
    older = connections.jobs.get(job.id).model_copy(update={"outage_since": time.time() - seconds})
    connections.redis.set(record_key(job.id), older.model_dump_json())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (AWAY, "storage_unavailable", "the object store does not answer"),
        (
            redis.ConnectionError("connection refused"),
            "job_store_unavailable",
            "Redis, where jobs are kept, did not answer or refused to write",
        ),
    ],
)
def test_an_outage_uses_up_no_attempt_and_each_wait_is_said(
    connections: Connections, settings: Settings, tenant: str, error: Exception, code: str, message: str
) -> None:
    job = submitted(connections, tenant)
    first = tried(connections, settings.jobs, job, error)
    for _ in range(MORE_THAN_ATTEMPTS):
        again = tried(connections, settings.jobs, job, error)
        assert (again.status, again.attempt, again.lease) == (JobStatus.QUEUED, 0, None)
        assert again.outage_since == first.outage_since
    assert first.outage_since == pytest.approx(first.queued_at)
    assert first.retry_at == pytest.approx(first.queued_at + records.RETRY_AFTER_S)
    told = [event for event in connections.jobs.events(job.id, tenant) if event.level == "warn"]
    assert len(told) == MORE_THAN_ATTEMPTS + 1
    assert {event.message for event in told} == {f"something it needs is away; the job is queued: {message}"}
    assert all(event.data == {"status": "queued", "code": code} for event in told)


def test_an_outage_that_outlasts_patience_uses_up_attempts_until_the_job_fails(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    job = submitted(connections, tenant)
    for attempt in range(1, settings.jobs.max_attempts):
        tried(connections, settings.jobs, job, AWAY)
        began_ago(connections, job, settings.jobs.outage_patience_s)
        counted = tried(connections, settings.jobs, job, AWAY)
        assert (counted.status, counted.attempt, counted.outage_since) == (JobStatus.QUEUED, attempt, None)
    tried(connections, settings.jobs, job, AWAY)
    began_ago(connections, job, settings.jobs.outage_patience_s)
    failed = tried(connections, settings.jobs, job, AWAY)
    assert (failed.status, failed.attempt) == (JobStatus.FAILED, settings.jobs.max_attempts)
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == (AWAY.code, AWAY.message)


@pytest.mark.parametrize(
    ("error", "patience_s"), [(AWAY, 0.0), (Unavailable("not loaded", code="adapter_not_loaded"), 3600.0)]
)
def test_what_no_patience_is_had_with_uses_up_attempts_at_once(
    connections: Connections, settings: Settings, tenant: str, error: Unavailable, patience_s: float
) -> None:
    impatient = settings.jobs.model_copy(update={"outage_patience_s": patience_s})
    job = submitted(connections, tenant)
    states = [tried(connections, impatient, job, error) for _ in range(settings.jobs.max_attempts)]
    assert [(state.status, state.attempt) for state in states] == [
        (JobStatus.QUEUED, 1),
        (JobStatus.QUEUED, 2),
        (JobStatus.FAILED, 3),
    ]
    assert states[0].retry_at == pytest.approx(states[0].queued_at + records.RETRY_AFTER_S)
    assert states[-1].error is not None
    assert states[-1].error.code == error.code


def test_a_reaper_calls_a_worker_when_the_wait_is_over(
    connections: Connections, settings: Settings, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "RETRY_AFTER_S", 0.5)
    job, reaper = submitted(connections, tenant), Reaper(connections.jobs, settings.jobs)
    connections.redis.delete("cpu")
    tried(connections, settings.jobs, job, AWAY)
    reaper.sweep()
    assert queue_length(connections, JobKind.EVALUATION) == 0, "nobody is called before its time"
    time.sleep(0.6)
    for _ in range(3):
        reaper.sweep()
    assert queue_length(connections, JobKind.EVALUATION) == 1
    run_job(connections.jobs, settings.jobs, job.id, lambda _: {"rows": 3})
    done = connections.jobs.get(job.id)
    assert (done.status, done.attempt, done.result) == (JobStatus.SUCCEEDED, 1, {"rows": 3})


@pytest.mark.parametrize(("asked", "status"), [("pause", JobStatus.PAUSED), ("cancel", JobStatus.CANCELLED)])
@pytest.mark.parametrize("when", ["while it waits", "while it runs"])
def test_a_job_is_paused_and_cancelled_in_an_outage(
    connections: Connections, settings: Settings, tenant: str, asked: str, status: JobStatus, when: str
) -> None:
    ask = connections.jobs.pause if asked == "pause" else connections.jobs.request_cancel
    job = submitted(connections, tenant)
    tried(connections, settings.jobs, job, AWAY)

    def fail(_: RunningJob) -> dict[str, Any]:
        ask(job.id)
        raise AWAY

    if when == "while it waits":
        ask(job.id)
    else:
        run_job(connections.jobs, settings.jobs, job.id, fail)
    stopped = connections.jobs.get(job.id)
    assert (stopped.status, stopped.lease, stopped.error) == (status, None, None)
    if asked == "pause":
        assert (stopped.attempt, stopped.outage_since) == (0, None)
        assert connections.jobs.resume(job.id).waits(time.time())


@pytest.mark.parametrize("error", [AWAY, Interrupted(), Unavailable("not loaded")])
@pytest.mark.parametrize("paused", [False, True])
def test_a_job_that_is_given_back_shows_how_far_it_came(
    connections: Connections, settings: Settings, tenant: str, error: Exception, paused: bool
) -> None:
    job = submitted(connections, tenant)

    def steps(running: RunningJob) -> dict[str, Any]:
        for step in range(1, 4):
            running.progress(step=step)  # stored once a second
        if paused:
            connections.jobs.pause(job.id)
        raise error

    run_job(connections.jobs, settings.jobs, job.id, steps)
    back = connections.jobs.get(job.id)
    assert (back.status, back.progress) == (
        JobStatus.PAUSED if paused else JobStatus.QUEUED,
        {"step": 3},
    )


def test_an_object_store_that_comes_back_is_all_that_a_job_waits_for(
    settings: Settings, tenant: str, servers: Any, running: Any, tmp_path: Path
) -> None:
    port = servers.free_port()
    storage = StorageSettings.model_validate({"endpoint": f"127.0.0.1:{port}", "secret_key": "test-secret"})
    server = servers.seaweedfs(tmp_path / "s3", port, storage.access_key, "test-secret")
    opened = connect(settings.model_copy(update={"storage": storage}))

    ready = partial(servers.buckets_ready, storage)

    def read(_: RunningJob) -> dict[str, Any]:
        return {"text": opened.storage.data.get("a").decode()}

    with running(server.command, ready):
        opened.storage.data.put("a", b"here")
        job = submitted(opened, tenant)
    for _ in range(MORE_THAN_ATTEMPTS):
        run_job(opened.jobs, settings.jobs, job.id, read)
        assert opened.jobs.get(job.id).status is JobStatus.QUEUED
    last = opened.jobs.events(job.id, tenant)[-1]
    assert last.data == {"status": "queued", "code": "storage_unavailable"}
    with running(server.command, ready):
        deadline = time.monotonic() + 60
        # SeaweedFS answers before it has found its disk, with errors of its own.
        while not opened.jobs.get(job.id).status.terminal:
            assert time.monotonic() < deadline
            run_job(opened.jobs, settings.jobs, job.id, read)
            time.sleep(0.5)
    done = opened.jobs.get(job.id)
    assert (done.status, done.attempt, done.result) == (JobStatus.SUCCEEDED, 1, {"text": "here"})
    opened.redis.close()

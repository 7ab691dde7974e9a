"""A job while a worker runs it, and how its end is written down."""

import threading
import time
from typing import Any

import pytest
import redis

from narrowcast.connections import Connections
from narrowcast.errors import InvalidInput, Unavailable
from narrowcast.jobs.reaper import Reaper
from narrowcast.jobs.records import Job, JobKind, JobStatus, LeaseLost
from narrowcast.jobs.running import Interrupted, RunningJob, run_job
from narrowcast.jobs.writing import TO_ARCHIVE_KEY, record_key
from narrowcast.settings import JobSettings, Settings

from .records import new_job, queue_length, refusing


def run(connections: Connections, settings: JobSettings, tenant: str, handler: Any) -> Job:
    job = new_job(tenant)
    connections.jobs.submit(job)
    run_job(connections.jobs, settings, job.id, handler)
    return connections.jobs.get(job.id)


def test_a_handlers_result_is_the_jobs(connections: Connections, settings: Settings, tenant: str) -> None:
    job = run(connections, settings.jobs, tenant, lambda running: {"rows": 3})
    assert (job.status, job.result) == (JobStatus.SUCCEEDED, {"rows": 3})


def test_the_lease_is_renewed_while_a_handler_works(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    short = settings.jobs.model_copy(update={"lease_s": 0.4})

    def slow(running: RunningJob) -> dict[str, Any]:
        time.sleep(1.2)
        assert connections.jobs.reap(running.job.id, time.time()) is None
        running.check()
        return {}

    # The store writes leases of the settings it was made with (2 s); the runner renews by its own.
    assert run(connections, short, tenant, slow).status is JobStatus.SUCCEEDED


def test_a_users_error_fails_the_job_with_its_reason(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    def refuse(_: RunningJob) -> dict[str, Any]:
        raise InvalidInput("row 3 is too long", code="row_too_long", param="row 3")

    job = run(connections, settings.jobs, tenant, refuse)
    assert job.status is JobStatus.FAILED
    assert job.error is not None
    assert job.error.model_dump() == {
        "code": "row_too_long",
        "message": "row 3 is too long",
        "param": "row 3",
    }


def test_an_unexpected_error_says_nothing_of_its_text(
    connections: Connections, settings: Settings, tenant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def leak(_: RunningJob) -> dict[str, Any]:
        raise ValueError("Пациент Иванов")

    job = run(connections, settings.jobs, tenant, leak)
    assert job.error is not None
    assert job.error.code == "internal_error"
    assert "Иванов" not in job.model_dump_json()
    assert "Иванов" not in str([e.message for e in connections.jobs.events(job.id, tenant)])


@pytest.mark.parametrize(
    ("error", "attempt", "messages"),
    [
        # Left to the reaper, so that attempts are not used up within a second of an outage.
        (Unavailable("no S3"), 1, 1),
        # An operator's restart costs no attempt, and another worker may go on at once.
        (Interrupted(), 0, 2),
    ],
)
def test_what_may_pass_goes_back_to_the_queue(
    connections: Connections,
    settings: Settings,
    tenant: str,
    error: Exception,
    attempt: int,
    messages: int,
) -> None:
    def fail(_: RunningJob) -> dict[str, Any]:
        raise error

    job = run(connections, settings.jobs, tenant, fail)
    assert (job.status, job.attempt, job.lease) == (JobStatus.QUEUED, attempt, None)
    assert queue_length(connections) == messages


def test_a_worker_that_must_stop_interrupts_its_job(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)

    def work(running: RunningJob) -> dict[str, Any]:
        running.progress(done=1)
        raise AssertionError("not interrupted")

    run_job(connections.jobs, settings.jobs, job.id, work, should_stop=lambda: True)
    assert connections.jobs.get(job.id).status is JobStatus.QUEUED


def test_cancellation_reaches_a_running_handler(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    def stubborn(running: RunningJob) -> dict[str, Any]:
        connections.jobs.request_cancel(running.job.id)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            running.check()
            time.sleep(0.05)
        raise AssertionError("never told to stop")

    assert run(connections, settings.jobs, tenant, stubborn).status is JobStatus.CANCELLED


@pytest.mark.parametrize(
    "away",
    [redis.ConnectionError, redis.TimeoutError, redis.exceptions.OutOfMemoryError, redis.ResponseError],
)
@pytest.mark.parametrize(
    ("write", "error", "status", "attempt"),
    [("finish", None, JobStatus.SUCCEEDED, 1), ("release", Interrupted, JobStatus.QUEUED, 0)],
)
def test_how_a_job_ended_waits_for_redis_as_long_as_the_lease_lasts(
    connections: Connections,
    settings: Settings,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
    away: type[Exception],
    write: str,
    error: type[Exception] | None,
    status: JobStatus,
    attempt: int,
) -> None:
    """Its result is not lost, and an interruption costs no attempt."""
    written, tries = getattr(connections.jobs, write), 0

    def away_once(*given: Any, **named: Any) -> Job:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise away
        job: Job = written(*given, **named)
        return job

    def work(_: RunningJob) -> dict[str, Any]:
        if error is not None:
            raise error
        return {"rows": 3}

    monkeypatch.setattr(connections.jobs, write, away_once)
    job = run(connections, settings.jobs, tenant, work)
    assert (job.status, job.attempt, tries) == (status, attempt, 2)
    assert job.result == ({} if error else {"rows": 3})


def test_a_redis_that_refuses_for_a_moment_costs_a_job_nothing(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    """Neither what it says meanwhile, nor its result, nor an attempt."""
    over = threading.Timer(0.7, lambda: connections.redis.config_set("min-replicas-to-write", 0))

    def work(running: RunningJob) -> dict[str, Any]:
        running.event("before")
        connections.redis.config_set("min-replicas-to-write", 1)
        over.start()
        running.event("meanwhile", level="warn", data={"code": "x"})
        running.event("meanwhile, again")
        running.progress(step=1)
        return {"rows": 3}

    try:
        job = run(connections, settings.jobs, tenant, work)
    finally:
        over.join()
    assert (job.status, job.attempt, job.result) == (JobStatus.SUCCEEDED, 1, {"rows": 3})
    events = connections.jobs.events(job.id, tenant)
    assert [event.message for event in events[1:]] == [
        "before",
        "meanwhile",
        "meanwhile, again",
        "the job has succeeded",
    ]
    assert (events[2].level, events[2].data) == ("warn", {"code": "x"})


def test_what_a_job_has_said_is_sent_as_soon_as_redis_takes_it(connections: Connections, tenant: str) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)
    running = RunningJob(connections.jobs, connections.jobs.claim(job.id, "worker"), "worker")
    with refusing(connections):
        running.event("one")
        running.event("two")
        running.renew()
        with pytest.raises(redis.RedisError):
            running.send_events()
    running.event("three")
    assert len(connections.jobs.events(job.id, tenant)) == 1, "in order"
    running.renew()
    said = [event.message for event in connections.jobs.events(job.id, tenant)]
    assert said[1:] == ["one", "two", "three"]
    connections.jobs.reap(job.id, time.time() + 1000)
    running.renew()
    running.event("four")
    assert "four" not in [event.message for event in connections.jobs.events(job.id, tenant)]


@pytest.mark.parametrize("error", [redis.ConnectionError, redis.exceptions.OutOfMemoryError])
def test_a_job_whose_own_redis_commands_fail_is_tried_again(
    connections: Connections, settings: Settings, tenant: str, error: type[Exception]
) -> None:
    def fail(_: RunningJob) -> dict[str, Any]:
        raise error("command not allowed")

    again = run(connections, settings.jobs, tenant, fail)
    assert (again.status, again.attempt, again.error) == (JobStatus.QUEUED, 0, None)
    last = settings.jobs.model_copy(update={"max_attempts": 1, "outage_patience_s": 0})
    failed = run(connections, last, tenant, fail)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "job_store_unavailable"
    assert "memory and disk" in failed.error.message


def test_a_cancelled_job_that_fails_says_that_no_checkpoint_was_kept(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    def fail(running: RunningJob) -> dict[str, Any]:
        connections.jobs.request_cancel(running.job.id, keep_checkpoint=True)
        running.renew()
        raise Unavailable("no S3", code="storage_unavailable")

    job = run(connections, settings.jobs.model_copy(update={"max_attempts": 1}), tenant, fail)
    assert job.status is JobStatus.CANCELLED
    warning, end = connections.jobs.events(job.id, tenant)[-2:]
    assert (warning.level, warning.message) == ("warn", "no checkpoint was kept: no S3")
    assert warning.data == {"code": "storage_unavailable"}
    assert end.message == "the job is cancelled"


def test_of_two_renewals_that_meet_the_older_answer_is_not_kept(
    connections: Connections, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By it a job would be cancelled, and the checkpoint deleted that its user wants kept."""
    job = new_job(tenant)
    connections.jobs.submit(job)
    running = RunningJob(connections.jobs, connections.jobs.claim(job.id, "worker"), "worker")
    real, answered, arrives = connections.jobs.renew, threading.Event(), threading.Event()

    def renew_slowly(*arguments: Any) -> Job:
        answer: Job = real(*arguments)
        if not answered.is_set():
            answered.set()
            arrives.wait(10)
        return answer

    monkeypatch.setattr(connections.jobs, "renew", renew_slowly)
    timer = threading.Thread(target=running.renew)
    timer.start()
    assert answered.wait(10)
    connections.jobs.request_cancel(job.id, keep_checkpoint=True)
    running.renew()
    arrives.set()
    timer.join()
    assert running.cancelled.is_set() is running.job.keep_checkpoint
    running.renew()
    assert running.cancelled.is_set()
    assert running.job.keep_checkpoint


def test_a_lease_is_over_when_its_time_is_though_redis_says_nothing(
    connections: Connections, tenant: str
) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)
    running = RunningJob(connections.jobs, connections.jobs.claim(job.id, "worker"), "worker")
    running.check()
    assert running.job.lease is not None
    running.job.lease.expires_at = time.time() - 1
    assert not running.lost.is_set()
    with pytest.raises(LeaseLost):
        running.check()
    assert running.lost.is_set()


def test_a_record_of_a_newer_version_stands_in_nobodys_way(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    foreign, job = new_job(tenant), new_job(tenant)
    for one in (foreign, job):
        connections.jobs.submit(one)
    record = foreign.model_dump_json().replace('"status":"queued"', '"status":"archiving"')
    connections.redis.set(record_key(foreign.id), record)
    Reaper(connections.jobs, settings.jobs).sweep()
    taken = connections.jobs.claim_next(JobKind.TRAINING, "worker")
    assert taken is not None
    assert taken.id == job.id
    assert connections.redis.get(record_key(foreign.id)) == record

    # Nor when it has ended.
    connections.redis.sadd(TO_ARCHIVE_KEY, foreign.id)
    connections.jobs.finish(job.id, "worker", JobStatus.SUCCEEDED)
    assert connections.jobs.archive_ended() == 1


def test_a_job_ends_with_the_progress_that_it_made(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    def steps(running: RunningJob) -> dict[str, Any]:
        for step in range(1, 4):
            running.progress(step=step)  # stored once a second
        return {}

    assert run(connections, settings.jobs, tenant, steps).progress == {"step": 3}


def test_a_handler_that_lost_its_lease_writes_nothing(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    def robbed(running: RunningJob) -> dict[str, Any]:
        connections.jobs.reap(running.job.id, time.time() + 1000)
        connections.jobs.claim(running.job.id, "thief")
        return {"stale": True}

    job = run(connections, settings.jobs, tenant, robbed)
    assert (job.status, job.result) == (JobStatus.RUNNING, {})
    assert job.lease is not None
    assert job.lease.owner == "thief"

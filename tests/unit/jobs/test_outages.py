"""What an outage costs a job, and for how long: pure functions."""

from typing import Any

import pytest
import redis

from narrowcast.errors import InvalidInput, Outage, Unavailable
from narrowcast.jobs.records import LONGEST_RETRY_S, RETRY_AFTER_S, Job, JobKind, JobStatus
from narrowcast.jobs.running import Interrupted, ends_job
from narrowcast.jobs.schedule import RunWindow, Schedule
from narrowcast.settings import JobSettings

HOUR = 3600.0
AWAY = Outage("no S3", code="storage_unavailable")


def running(**changes: Any) -> Job:
    job = Job(id="eval-1", kind=JobKind.EVALUATION, tenant="t", spec={}, created_at=0.0, queued_at=0.0)
    return job.model_copy(update=changes).claimed("worker", 10.0, 30.0)


def test_the_wait_grows_with_the_outage_and_costs_nothing() -> None:
    job, now, waits = running(), 100.0, []
    while len(waits) < 9:
        job = job.released_by_outage(now)
        assert (job.status, job.attempt, job.outage_since) == (JobStatus.QUEUED, 0, 100.0)
        assert job.retry_at is not None
        waits.append(job.retry_at - now)
        now = job.due_at(now)
        assert not job.waits(now - 0.1)
        job = job.claimed("worker", now, 30.0)
    assert waits == [RETRY_AFTER_S, 10.0, 20.0, 40.0, 80.0, 160.0, LONGEST_RETRY_S, 300.0, 300.0]


def test_an_outage_is_borne_for_as_long_as_patience_lasts() -> None:
    job = running().released_by_outage(100.0).claimed("worker", 110.0, 30.0)
    assert running().bears_outage(1e9, HOUR), "the first of a row"
    assert job.bears_outage(100.0 + HOUR - 1, HOUR)
    assert not job.bears_outage(100.0 + HOUR, HOUR)
    assert not running().bears_outage(100.0, 0.0), "no patience, no row"


@pytest.mark.parametrize(
    "end",
    [
        lambda job: job.released(200.0),
        lambda job: job.released(200.0, counted=False),
        lambda job: job.released(200.0, retry_at=210.0),
        lambda job: job.pausing().released(200.0, counted=False),
        lambda job: job.pausing().released_by_outage(200.0),
        lambda job: job.released_by_outage(200.0).pausing(),
    ],
    ids=[
        "worker lost",
        "interrupted",
        "failed otherwise",
        "paused",
        "paused by an outage",
        "paused after it",
    ],
)
def test_a_row_ends_with_an_attempt_that_ends_otherwise(end: Any) -> None:
    job = running().released_by_outage(100.0).claimed("worker", 110.0, 30.0)
    assert job.outage_since == 100.0
    assert end(job).outage_since is None


def test_a_job_that_waits_is_paused_and_cancelled_as_any_other() -> None:
    waiting = running().released_by_outage(100.0)
    resumed = waiting.pausing().resumed(105.0)
    assert resumed.waits(105.0), "its user does not want to wait"
    assert (resumed.attempt, resumed.outage_since) == (0, None)
    assert waiting.cancellation_requested(105.0).status is JobStatus.CANCELLED


def test_the_schedule_outlasts_outages_and_interruptions() -> None:
    window = RunWindow.model_validate({"start": "20:00", "end": "06:00", "time_zone": "UTC"})
    schedule = Schedule(priority=3, not_before=10 * 3600.0, window=window, max_attempts=1)
    job = running(schedule=schedule)
    for back in (job.released_by_outage(100.0), job.released(100.0, counted=False), job.released(100.0)):
        assert back.schedule == schedule
        assert back.due_at(100.0) == 20 * 3600, "not before its hours"


@pytest.mark.parametrize(
    ("error", "attempt", "since", "ends"),
    [
        (AWAY, 3, None, False),
        (AWAY, 3, 1000.0, False),
        (AWAY, 3, -HOUR, True),
        (AWAY, 2, -HOUR, False),
        (redis.ConnectionError(), 3, None, False),
        (redis.exceptions.OutOfMemoryError(), 3, -HOUR, True),
        (Unavailable("no adapter", code="adapter_not_loaded"), 3, None, True),
        (Unavailable("no adapter", code="adapter_not_loaded"), 2, None, False),
        (Interrupted(), 3, None, False),
        (InvalidInput("no"), 1, None, True),
        (ValueError(), 1, None, True),
    ],
)
def test_what_ends_a_job(error: Exception, attempt: int, since: float | None, ends: bool) -> None:
    job = running().model_copy(update={"attempt": attempt, "outage_since": since})
    assert ends_job(job, error, JobSettings(max_attempts=3), 1000.0) is ends


def test_a_record_written_before_outages_were_borne_is_read() -> None:
    old = running().model_dump(exclude={"outage_since"})
    assert Job.model_validate(old) == running()

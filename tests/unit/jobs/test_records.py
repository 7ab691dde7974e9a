"""Which changes of a record are legal, and what they leave."""

from typing import Any

import pytest

from narrowcast.errors import Conflict
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.jobs.schedule import RunWindow, Schedule


def job(status: JobStatus = JobStatus.QUEUED, **changes: Any) -> Job:
    return Job(id="ftjob-1", kind=JobKind.TRAINING, tenant="t", spec={}, status=status, **changes)


def running(**changes: Any) -> Job:
    return job(**changes).claimed("worker", 10.0, 30.0)


def code(change: Any) -> str:
    with pytest.raises(Conflict) as refused:
        change()
    return refused.value.code


def test_a_queued_job_is_paused_at_once_and_resumed_without_its_turn() -> None:
    paused = job(queued_at=1.0, keeps_turn=True, retry_at=99.0).pausing()
    assert (paused.status, paused.keeps_turn, paused.retry_at) == (JobStatus.PAUSED, False, None)
    assert not paused.waits(100.0)
    resumed = paused.resumed(100.0)
    assert (resumed.status, resumed.queued_at, resumed.waits(100.0)) == (JobStatus.QUEUED, 100.0, True)
    assert not resumed.keeps_turn


@pytest.mark.parametrize("counted", [True, False])
def test_a_running_job_is_paused_by_its_worker_at_no_cost(counted: bool) -> None:
    asked = running().pausing()
    assert (asked.status, asked.must_yield(11.0)) == (JobStatus.RUNNING, True)
    paused = asked.released(12.0, counted=counted)
    assert (paused.status, paused.attempt, paused.lease) == (JobStatus.PAUSED, 0, None)
    assert not paused.pause_requested


def test_what_is_interrupted_keeps_its_turn_and_its_attempt() -> None:
    back = running(progress={"step": 1}).released(12.0, counted=False)
    assert (back.status, back.attempt, back.keeps_turn) == (JobStatus.QUEUED, 0, True)
    assert running().released(12.0).attempt == 1
    assert not back.claimed("another", 13.0, 30.0).keeps_turn


def test_what_was_never_worked_at_has_no_turn_to_keep() -> None:
    """In an outage a trainer takes one job after another, and each goes back."""
    assert not running().released_by_outage(12.0).keeps_turn
    assert not running().released(12.0, worker_lost=True).keeps_turn


def test_whose_hours_are_over_keeps_no_turn() -> None:
    hours = RunWindow.model_validate({"start": "20:00", "end": "06:00", "time_zone": "UTC"})
    begun = running(progress={"step": 1}, schedule=Schedule(window=hours))
    assert not begun.released(6.5 * 3600, counted=False).keeps_turn
    assert begun.released(5.5 * 3600, counted=False).keeps_turn, "its worker was stopped"


def test_a_record_knows_when_the_attempts_began_whose_workers_were_lost() -> None:
    lost = running().renewed("worker", 20.0, 30.0).released(60.0, worker_lost=True)
    assert lost.lost_attempts == (10.0,)
    stopped = lost.claimed("worker", 70.0, 30.0).released(80.0, counted=False)
    assert stopped.lost_attempts == (10.0,)
    again = stopped.claimed("worker", 90.0, 30.0)
    assert again.released(130.0, worker_lost=True).lost_attempts == (10.0, 90.0)
    assert again.pausing().released(130.0, worker_lost=True).lost_attempts == (10.0, 90.0)
    older = Job.model_validate(
        running().model_dump(exclude={"lost_attempts": True, "lease": {"claimed_at"}})  # another version's
    )
    assert older.released(60.0, worker_lost=True).lost_attempts == ()


def test_cancelling_wins_over_pausing() -> None:
    asked = running().pausing().cancellation_requested(11.0)
    assert not asked.must_yield(12.0)
    assert asked.released(12.0).status is JobStatus.CANCELLED
    assert code(asked.pausing) == "already_paused"
    assert code(running().cancellation_requested(11.0).pausing) == "job_cancelling"


def test_what_was_kept_is_given_up_also_where_its_worker_has_not_heard_of_it() -> None:
    asked, kept = running().cancellation_requested(11.0, keep_checkpoint=True), {"adapter_id": "a"}
    assert asked.finished(JobStatus.CANCELLED, 12.0, result=kept).result == kept
    given_up = asked.cancellation_requested(11.5)
    assert given_up.finished(JobStatus.CANCELLED, 12.0, result=kept).result == {}


@pytest.mark.parametrize("status", [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_what_has_ended_stays_so(status: JobStatus) -> None:
    ended = job(status)
    assert code(ended.pausing) == "job_ended"
    assert code(lambda: ended.resumed(1.0)) == "not_paused"
    assert code(lambda: ended.cancellation_requested(1.0, keep_checkpoint=True)) == "job_ended"


def test_pausing_twice_and_resuming_what_is_not_paused() -> None:
    assert code(job().pausing().pausing) == "already_paused"
    assert code(running().pausing().pausing) == "already_paused"
    for other in (job(), running(), running().pausing()):
        assert code(lambda other=other: other.resumed(1.0)) == "not_paused"


def test_keeping_a_checkpoint_takes_a_worker_if_there_may_be_one() -> None:
    begun = running().released(12.0)
    assert job().cancellation_requested(1.0, keep_checkpoint=True).status is JobStatus.CANCELLED
    for waiting in (begun, begun.pausing(), begun.model_copy(update={"schedule": Schedule(not_before=1e11)})):
        asked = waiting.cancellation_requested(13.0, keep_checkpoint=True)
        assert (asked.status, asked.keep_checkpoint) == (JobStatus.QUEUED, True)
        assert asked.waits(14.0), "at any hour"
        assert asked.cancellation_requested(15.0).status is JobStatus.CANCELLED, "and given up"
    assert begun.pausing().cancellation_requested(13.0).status is JobStatus.CANCELLED


def test_keeping_a_checkpoint_waits_for_what_was_away() -> None:
    asked = running().cancellation_requested(11.0, keep_checkpoint=True)
    back = asked.released(12.0, retry_at=22.0)
    assert not back.waits(21.9), "it would use up its attempts within moments"
    assert back.waits(22.0)


def test_a_jobs_own_limit_of_attempts_goes_before_the_sites() -> None:
    third = job(attempt=3)
    assert third.attempts_used_up(3)
    assert not third.model_copy(update={"schedule": Schedule(max_attempts=4)}).attempts_used_up(3)
    assert job(attempt=1, schedule=Schedule(max_attempts=1)).attempts_used_up(3)


def test_a_record_written_before_there_were_schedules_is_read() -> None:
    old = job().model_dump(
        exclude={"schedule", "retry_at", "keeps_turn", "pause_requested", "keep_checkpoint"}
    )
    assert Job.model_validate(old).schedule == Schedule()

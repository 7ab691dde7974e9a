"""When a job may run, and who is next: pure functions, every hour of the clock."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.jobs.schedule import RunWindow, Schedule, in_order

BERLIN, MOSCOW = "Europe/Berlin", "Europe/Moscow"


def at(text: str, zone: str = MOSCOW) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def window(start: str, end: str, zone: str = MOSCOW) -> RunWindow:
    return RunWindow.model_validate({"start": start, "end": end, "time_zone": zone})


def job(name: str = "a", tenant: str = "t", **changes: Any) -> Job:
    return Job(
        id=name,
        kind=JobKind.TRAINING,
        tenant=tenant,
        spec={},
        **({"created_at": 0.0, "queued_at": 0.0} | changes),
    )


NIGHT = window("20:00", "06:00")


def test_a_resumed_job_goes_by_its_age_within_its_tenant() -> None:
    older = job("older", created_at=1.0).pausing().resumed(99.0)
    newer = job("newer", created_at=2.0)
    other = job("other", tenant="u", created_at=3.0)
    line = in_order([newer, older, other], [], {"t": 50.0})
    assert [one.id for one in line] == ["other", "older", "newer"]


@pytest.mark.parametrize(
    ("moment", "opening", "is_open"),
    [
        ("2026-11-22 19:59:59", "2026-11-22 20:00", False),
        ("2026-11-22 20:00", "2026-11-22 20:00", True),
        ("2026-11-23 00:00", "2026-11-22 20:00", True),
        ("2026-11-23 05:59:59", "2026-11-22 20:00", True),
        ("2026-11-23 06:00", "2026-11-23 20:00", False),
    ],
)
def test_a_night_spans_midnight(moment: str, opening: str, is_open: bool) -> None:
    assert NIGHT.opening(at(moment)) == at(opening)
    assert NIGHT.is_open(at(moment)) is is_open


def test_hours_of_one_day() -> None:
    lunch = window("12:00", "13:30")
    assert lunch.is_open(at("2026-11-22 13:29"))
    assert lunch.opening(at("2026-11-22 13:30")) == at("2026-11-23 12:00")


def test_hours_are_those_of_the_wall_clock_across_a_change_of_clocks() -> None:
    night = window("22:00", "05:00", BERLIN)
    # The clocks go back at 3:00 on 25 October 2026: this night has eight hours, not seven.
    opens, closes = at("2026-10-24 22:00", BERLIN), at("2026-10-25 05:00", BERLIN)
    assert closes - opens == 8 * 3600
    assert night.opening(closes - 1) == opens
    assert night.opening(closes) == at("2026-10-25 22:00", BERLIN)
    # 2:30 does not exist on 29 March 2026; the hours open all the same.
    assert window("02:30", "05:00", BERLIN).is_open(at("2026-03-29 04:00", BERLIN))


@pytest.mark.parametrize(
    "bad",
    [
        {"start": "20:00", "end": "20:00", "time_zone": MOSCOW},
        {"start": "20:00", "end": "20:20", "time_zone": MOSCOW},
        {"start": "23:50", "end": "00:10", "time_zone": MOSCOW},
        {"start": "20:00", "end": "06:00", "time_zone": "Mars/Base"},
        {"start": "20:00", "end": "06:00", "time_zone": "../../etc/passwd"},
        {"start": "20:00", "end": "06:00", "time_zone": ""},
        {"start": "20:00", "end": "06:00"},
        {"start": "20:00+03:00", "end": "06:00", "time_zone": MOSCOW},
    ],
)
def test_hours_that_make_no_sense_are_refused(bad: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        RunWindow.model_validate(bad)


@pytest.mark.parametrize(
    ("changes", "due"),
    [
        ({}, 100.0),
        ({"schedule": Schedule(not_before=50.0)}, 100.0),
        ({"schedule": Schedule(not_before=5000.0)}, 5000.0),
        ({"retry_at": 300.0}, 300.0),
        ({"retry_at": 300.0, "cancel_requested": True}, 300.0),
        ({"schedule": Schedule(not_before=5000.0), "cancel_requested": True}, 100.0),
    ],
)
def test_when_a_job_is_due(changes: dict[str, Any], due: float) -> None:
    waiting = job(queued_at=100.0, **changes)
    assert waiting.due_at(200.0) == due
    assert waiting.waits(200.0) is (due <= 200.0)


def test_nothing_waits_for_a_clock_that_is_behind_the_one_that_queued_it() -> None:
    """Two machines' clocks differ by milliseconds, and a message is as quick."""
    ahead = job(queued_at=100.0)
    assert ahead.due_at(99.9) == 99.9
    assert ahead.waits(99.9)
    assert not job(queued_at=100.0, retry_at=110.0).waits(109.9)


def test_not_before_and_hours_together() -> None:
    after_noon = Schedule(not_before=at("2026-11-22 12:00"), window=NIGHT)
    in_the_night = Schedule(not_before=at("2026-11-22 23:00"), window=NIGHT)
    now = at("2026-11-22 10:00")
    assert job(schedule=after_noon).due_at(now) == at("2026-11-22 20:00")
    assert job(schedule=in_the_night).due_at(now) == at("2026-11-22 23:00")
    # And since when it has been due, once it is.
    assert job(schedule=in_the_night).due_at(at("2026-11-23 01:00")) == at("2026-11-22 23:00")
    assert job(schedule=in_the_night).due_at(at("2026-11-24 21:00")) == at("2026-11-24 20:00")


def test_a_running_job_yields_when_its_hours_are_over() -> None:
    running = job(status=JobStatus.RUNNING, schedule=Schedule(window=NIGHT))
    assert not running.must_yield(at("2026-11-23 05:59"))
    assert running.must_yield(at("2026-11-23 06:00"))
    cancelled = running.model_copy(update={"cancel_requested": True})
    assert not cancelled.must_yield(at("2026-11-23 06:00")), "it is being cancelled, at any hour"


def order(waiting: list[Job], running: list[Job] | None = None, turns: dict[str, float] | None = None) -> str:
    return "".join(one.id for one in in_order(waiting, running or [], turns or {}))


def test_age_decides_last() -> None:
    assert order([job("b", created_at=2.0), job("a", created_at=3.0), job("c", created_at=1.0)]) == "cba"


LOW, HIGH = Schedule(priority=-1), Schedule(priority=1)


def test_of_a_tenant_s_jobs_the_highest_priority_goes_first() -> None:
    waiting = [job("a", schedule=LOW), job("b", created_at=9.0), job("c", schedule=HIGH, created_at=10.0)]
    assert order(waiting) == "cba"


def test_no_priority_gets_ahead_of_another_tenant_s_turn() -> None:
    waiting = [job(f"{number}", "greedy", schedule=HIGH) for number in range(3)]
    waiting.append(job("o", "other", schedule=LOW, created_at=9.0))
    assert order(waiting, turns={"greedy": 100.0, "other": 50.0}) == "o012"
    assert order(waiting, [job("x", "greedy", status=JobStatus.RUNNING)]) == "o012"


def test_what_was_begun_goes_on_after_what_its_user_wants_more() -> None:
    begun = job("a", "one", schedule=LOW, keeps_turn=True, queued_at=200.0)
    assert order([begun, job("b", "one"), job("c", "two")], turns={"one": 100.0, "two": 50.0}) == "cba"


def test_what_was_begun_goes_on_first() -> None:
    begun = job("b", "old", keeps_turn=True, created_at=9.0, queued_at=200.0)
    assert order([job("a", "new"), begun], turns={"old": 100.0}) == "ba"


def test_what_was_begun_waits_for_a_tenant_that_has_less_running() -> None:
    begun = job("b", "busy", keeps_turn=True, queued_at=200.0)
    runs = job("x", "busy", status=JobStatus.RUNNING)
    assert order([begun, job("a", "idle")], [runs], {"busy": 100.0}) == "ab"


@pytest.mark.parametrize("trainers", [1, 3, 12])
def test_however_many_were_begun_another_tenant_has_its_turn_after_one(trainers: int) -> None:
    """All of a tenant's trainers were lost at once, and there are as many again, or fewer."""
    waiting = [job(f"g{number}", "greedy", keeps_turn=True, queued_at=200.0) for number in range(12)]
    waiting.append(job("o", "other", created_at=9.0, queued_at=150.0))
    turns, running, taken = {"greedy": 100.0}, list[Job](), list[str]()
    for now in range(201, 214):
        first = in_order(waiting, running, turns)[0]
        waiting.remove(first)
        taken.append(first.id)
        turns[first.tenant] = float(now)
        running = [*running, first][-trainers + 1 :] if trainers > 1 else []
    assert taken.index("o") == 1


def test_the_tenant_that_runs_least_goes_first() -> None:
    waiting = [job("a", "busy"), job("b", "idle", created_at=9.0)]
    assert order(waiting, [job("x", "busy", status=JobStatus.RUNNING)], {"idle": 100.0, "busy": 50.0}) == "ba"


def test_tenants_take_turns() -> None:
    """Ten jobs of one tenant, then one of each of two others: nobody waits for the ten."""
    waiting = [job(f"g{number}", "greedy", created_at=float(number)) for number in range(10)]
    waiting += [job("y", "y", created_at=20.0), job("z", "z", created_at=21.0)]
    turns: dict[str, float] = {}
    taken = []
    for now in range(1, 13):
        first = in_order(waiting, [], turns)[0]
        taken.append(first.id)
        waiting.remove(first)
        turns[first.tenant] = float(now)
    assert taken[:4] == ["g0", "y", "z", "g1"]
    assert taken[4:] == [f"g{number}" for number in range(2, 10)]

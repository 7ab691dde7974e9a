"""When a job may run, and which of those that may runs first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

if TYPE_CHECKING:
    from narrowcast.jobs.records import Job

HIGHEST_PRIORITY: Final = 10
MOST_ATTEMPTS: Final = 10
SHORTEST_WINDOW: Final = timedelta(minutes=30)
"""Loading a base model takes minutes of every window, and a checkpoint is written at its end."""
_DAY: Final = timedelta(days=1)
_CALENDAR_ENDS: Final = 253_000_000_000
"""Unix time, in the year 9987: days after it, which windows are looked for in, may not exist for datetime."""


@cache
def iana_zones() -> frozenset[str]:
    """Return the names of the package tzdata.

    The system's own folder, which goes before it, also has ``localtime``, and is another on each machine.
    """
    return frozenset(resources.files("tzdata").joinpath("zones").read_text("ascii").split())


class RunWindow(BaseModel):
    """The hours of each day in which a job may run; they may span midnight."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: time
    end: time
    time_zone: str
    """An IANA name such as ``Europe/Moscow``: hours mean nothing without one."""

    @field_validator("start", "end")
    @classmethod
    def _of_the_wall_clock(cls, value: time) -> time:
        if value.tzinfo is not None:
            raise ValueError("give the time without an offset, and the zone as time_zone")
        return value

    @field_validator("time_zone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("not a known IANA time zone") from None
        return value

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        opens = datetime.combine(datetime.min, self.start)
        closes = datetime.combine(datetime.min, self.end)
        if self.start == self.end:
            raise ValueError("start and end are the same; leave the window out to run at any hour")
        if (closes - opens) % _DAY < SHORTEST_WINDOW:
            raise ValueError(f"a window is at least {SHORTEST_WINDOW.seconds // 60} minutes long")
        return self

    def is_open(self, at: float) -> bool:
        """Whether Unix time ``at`` lies within the hours."""
        return self.opening(at) <= at

    def opening(self, at: float) -> float:
        """Return when the window that is open at ``at`` opened, or else when the next one will."""
        zone = ZoneInfo(self.time_zone)
        # From yesterday's on, which may reach past midnight; by wall clock, so that a night with a
        # change of clocks is an hour shorter or longer.
        day = datetime.fromtimestamp(at, zone).date() - _DAY
        while True:
            opens = datetime.combine(day, self.start, zone)
            closes = datetime.combine(day if self.start < self.end else day + _DAY, self.end, zone)
            if at < closes.timestamp():
                return opens.timestamp()
            day += _DAY


class Schedule(BaseModel):
    """What a user may say about when a job runs."""

    model_config = ConfigDict(frozen=True)

    priority: int = Field(0, ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY)
    """Higher goes first, of a tenant's jobs. Nothing that runs is stopped for it."""
    not_before: float | None = Field(None, ge=0, lt=_CALENDAR_ENDS)
    """Unix time, seconds."""
    window: RunWindow | None = None
    """Outside it a running job is interrupted; it goes on when the window opens again."""
    max_attempts: int | None = Field(None, ge=1, le=MOST_ATTEMPTS)
    """None: the site's ``jobs.max_attempts``."""


def in_order(waiting: Sequence["Job"], running: Sequence["Job"], turns: Mapping[str, float]) -> list["Job"]:
    """Return waiting jobs in the order in which free workers should take them.

    By tenant, whatever priorities it gives: fewest running jobs first. Among equals first the one with a
    job that lost its worker through no doing of its user, and so is half done with the turn it had, unless
    the tenant has something of a higher priority or has had another turn since: of many such jobs one goes
    before other tenants', who then have their turns. Then the one whose last turn is longest ago. Of a
    tenant's jobs by priority, then what was begun, then by age.

    Args:
        waiting: jobs of one kind that may start now.
        running: jobs of that kind that run.
        turns: when a job of each tenant was last taken; a tenant without an entry never had a turn.
    """
    busy = Counter(job.tenant for job in running)
    highest: dict[str, int] = {}
    for job in waiting:
        highest[job.tenant] = max(job.schedule.priority, highest.get(job.tenant, job.schedule.priority))

    def place(job: "Job") -> tuple[object, ...]:
        priority, turn = job.schedule.priority, turns.get(job.tenant, 0.0)
        return (
            busy[job.tenant],
            not (job.keeps_turn and priority == highest[job.tenant] and turn <= job.queued_at),
            turn,
            -priority,
            not job.keeps_turn,
            job.created_at,
            job.id,
        )

    return sorted(waiting, key=place)

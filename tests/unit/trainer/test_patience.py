"""How long a store that is away is waited for."""

import itertools
from collections.abc import Callable

import pytest

from narrowcast.errors import JobFailed, Unavailable
from narrowcast_trainer import patience
from narrowcast_trainer.patience import patiently


class Clock:
    """Stands for ``time``: sleeping passes it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(patience, "time", made)
    return made


def _away(until: float, clock: Clock, asked: list[float]) -> Callable[[], str]:
    def action() -> str:
        asked.append(clock.now)
        if clock.now < until:
            raise Unavailable("the object store does not answer")
        return "back"

    return action


def test_pauses_double_up_to_half_a_minute_and_it_is_said_once(clock: Clock) -> None:
    asked: list[float] = []
    said: list[str] = []
    beats: list[float] = []
    action = _away(100, clock, asked)
    assert patiently(action, 300, say=said.append, beat=lambda: beats.append(clock.now)) == "back"
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(asked)]
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert said == ["waiting: the object store does not answer"]
    assert max(later - earlier for earlier, later in itertools.pairwise(beats)) < 1


def test_patience_ends(clock: Clock) -> None:
    asked: list[float] = []
    with pytest.raises(Unavailable):
        patiently(_away(1e9, clock, asked), 10, say=lambda _: None, beat=lambda: None)
    assert [round(at) for at in asked] == [0, 1, 3, 7]


def test_patience_begins_with_the_first_failure(clock: Clock) -> None:
    """An upload of minutes that breaks off has not used it up."""
    asked: list[float] = []

    def slow() -> str:
        asked.append(clock.now)
        clock.sleep(20)
        return _away(30, clock, [])()

    assert patiently(slow, 10, say=lambda _: None, beat=lambda: None) == "back"
    assert [round(at) for at in asked] == [0, 21]


def test_other_errors_and_who_must_stop_do_not_wait(clock: Clock) -> None:
    def refused() -> str:
        raise JobFailed("no")

    def stop() -> None:
        raise KeyError

    with pytest.raises(JobFailed):
        patiently(refused, 100, say=lambda _: None, beat=lambda: None)
    with pytest.raises(KeyError):
        patiently(_away(50, clock, []), 100, say=lambda _: None, beat=stop)
    assert clock.now == 0

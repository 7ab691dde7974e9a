"""Waiting for a store that is away for a while, where giving up at once would cost hours of training."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from narrowcast.errors import Unavailable

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_POLL_S: Final = 0.5

T = TypeVar("T")


def patiently(
    action: Callable[[], T], patience_s: float, *, say: Callable[[str], None], beat: Callable[[], None]
) -> T:
    """Return what ``action`` returns; while something is away, try again after pauses that double.

    Args:
        action: safe to repeat.
        patience_s: how long to go on trying after the first failure.
        say: told once, why there is a wait.
        beat: called twice a second during pauses; what it raises ends the wait.

    Raises:
        Unavailable: it is still away.
    """
    first_failure: float | None = None
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            return action()
        except Unavailable as error:
            if first_failure is None:
                first_failure = time.monotonic()
            if time.monotonic() - first_failure + pause_s > patience_s:
                raise
            if pause_s == _FIRST_PAUSE_S:
                say(f"waiting: {error.message}")
        until = time.monotonic() + pause_s
        while time.monotonic() < until:
            beat()
            time.sleep(min(_POLL_S, max(0.0, until - time.monotonic())))
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

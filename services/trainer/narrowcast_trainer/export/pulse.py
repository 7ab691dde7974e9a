"""Signs of life from work that says nothing: whole minutes of copying and of programs that are not ours."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import psutil

_EVERY_S: Final = 2.0
_WORK_S: Final = 0.1
"""Processor time between two beats. Threads that only wait, those of libraries too, do not come to it within
the minutes that a trainer may be silent (its liveness probe)."""


class Pulse(threading.Thread):
    """Calls ``beat`` as long as this process, or one that it started, uses its processors.

    Converting, quantising and uploading all do; what hangs does not, and is found out.
    """

    def __init__(self, beat: Callable[[], None], *, every_s: float = _EVERY_S) -> None:
        super().__init__(name="pulse", daemon=True)
        self._beat = beat
        self._every_s = every_s

    def run(self) -> None:
        """Beat until the process ends."""
        own, below = _own_s(), 0.0
        while True:
            threading.Event().wait(self._every_s)
            if (now := _own_s()) - own >= _WORK_S:
                own = now
            # Only then, as to find them takes long where another thread is busy. Less than before where one
            # has ended, whose time is no longer counted: that is life too.
            elif abs((now := _below_s()) - below) >= _WORK_S:
                below = now
            else:
                continue
            self._beat()


def _own_s() -> float:
    """Return the seconds of processor time of this process, without the thread that asks."""
    return time.process_time() - time.thread_time()


def _below_s() -> float:
    """Return that of the programs that it started, and they."""
    used = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            times = child.cpu_times()
            used += times.user + times.system
    return used

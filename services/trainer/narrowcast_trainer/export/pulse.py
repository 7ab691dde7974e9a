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
        at_last_beat = _processor_s()
        while True:
            threading.Event().wait(self._every_s)
            # Less than before where a program has ended, whose time is no longer counted: that is life too.
            if abs((now := _processor_s()) - at_last_beat) >= _WORK_S:
                self._beat()
                at_last_beat = now


def _processor_s() -> float:
    """Return the seconds of processor time that this process and those below it have used.

    Without those of the thread that asks, or asking would be work.
    """
    used = time.process_time() - time.thread_time()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            times = child.cpu_times()
            used += times.user + times.system
    return used

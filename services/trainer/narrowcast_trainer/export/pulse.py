"""Signs of life from work that says nothing: whole minutes of copying and of programs that are not ours."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

_EVERY_S: Final = 2.0
_USER, _SYSTEM, _GROUP = 11, 12, 2
"""Fields of /proc/<pid>/stat after the program's name, counted from 0 (proc(5))."""


class Pulse(threading.Thread):
    """Calls ``beat`` as long as this process, or one that it started, uses its processors.

    Converting, quantising and uploading all do; what hangs does not, and is found out.
    """

    def __init__(self, beat: Callable[[], None]) -> None:
        super().__init__(name="pulse", daemon=True)
        self._beat = beat

    def run(self) -> None:
        """Beat until the process ends."""
        before = cpu_ticks(os.getpgrp())
        while True:
            threading.Event().wait(_EVERY_S)
            now = cpu_ticks(os.getpgrp())
            if now != before:
                self._beat()
            before = now


def cpu_ticks(group: int) -> int:
    """Return the processor time that the processes of a group have used so far, in clock ticks."""
    used = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):  # a process that has just ended
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[_GROUP]) == group:
                used += int(fields[_USER]) + int(fields[_SYSTEM])
    return used

"""A file whose age says whether the worker is alive.

``celery inspect ping`` does not answer while the only pool process is busy, and a thread that
touches a file proves nothing about the work. So the idle worker's main loop touches it, and
during a job only the training's own signs of life do.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Heartbeat:
    """The file, and beside it a marker that holds the id of the process that runs a job."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._busy = path.with_name(path.name + ".busy")

    def beat(self) -> None:
        """Say that work moves. On a full disk nobody hears it: no reason to lose a job."""
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()

    def start(self) -> None:
        """Say that the worker is there, and that no job runs: the marker of a killed one may be left."""
        self._free()
        self.beat()

    def beat_if_idle(self) -> None:
        """Say that the worker's main loop runs, unless a job's own progress is what counts now."""
        if not self._is_busy():
            self.beat()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Mark that a job runs in this process."""
        self.beat()
        with suppress(OSError):
            self._busy.write_text(str(os.getpid()))
        try:
            yield
        finally:
            self._free()

    def is_fresh(self, max_age_s: float) -> bool:
        """Whether the last beat was less than ``max_age_s`` seconds ago."""
        try:
            return time.time() - self._path.stat().st_mtime < max_age_s
        except OSError:
            return False

    def _free(self) -> None:
        with suppress(OSError):
            self._busy.unlink()

    def _is_busy(self) -> bool:
        try:
            os.kill(int(self._busy.read_text()), 0)
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError, ValueError):
            return False
        return True

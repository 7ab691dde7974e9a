"""A file whose age says whether the worker is alive.

``celery inspect ping`` does not answer while the only pool process is busy, and a thread that
touches a file proves nothing about the work. So the idle worker's main loop touches it, and
during a job only the training's own signs of life do.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Heartbeat:
    """The file, and beside it a marker that holds the id of the process that runs a job."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._busy = path.with_name(path.name + ".busy")

    def beat(self) -> None:
        """Say that work moves."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()

    def beat_if_idle(self) -> None:
        """Say that the worker's main loop runs, unless a job's own progress is what counts now."""
        if not self._is_busy():
            self.beat()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Mark that a job runs in this process."""
        self.beat()
        self._busy.write_text(str(os.getpid()))
        try:
            yield
        finally:
            self._busy.unlink(missing_ok=True)

    def is_fresh(self, max_age_s: float) -> bool:
        """Whether the last beat was less than ``max_age_s`` seconds ago."""
        try:
            return time.time() - self._path.stat().st_mtime < max_age_s
        except FileNotFoundError:
            return False

    def _is_busy(self) -> bool:
        try:
            os.kill(int(self._busy.read_text()), 0)
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return False
        return True

"""How a worker that is told to stop reaches the job it runs, across the fork."""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Set once in the worker's main process, seen in its pool process. Never taken back.

    A pipe instead of ``multiprocessing.Event``: it is set inside a signal handler, where
    taking a lock that a killed pool process holds would hang the shutdown.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        self._here = False

    def set(self) -> None:
        """Ask every process that shares this request to stop."""
        self._here = True
        os.write(self._writer, b".")

    def is_set(self) -> bool:
        """Whether anyone has asked."""
        return self._here or bool(select.select([self._reader], [], [], 0)[0])

    @contextmanager
    def on_sigterm(self) -> Iterator[None]:
        """While a job runs in this pool process, take SIGTERM as a request to stop.

        It comes from a process manager that signals the whole group, or from the kernel when the
        main process died. Celery's own handler would drop the job where it stands; it is put back
        afterwards, because it is what ends an idle pool process. Not at the process's start:
        billiard sets its handlers after ``worker_process_init``.
        """

        def handler(_number: int, _frame: FrameType | None) -> None:
            self._here = True

        previous = signal.signal(signal.SIGTERM, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

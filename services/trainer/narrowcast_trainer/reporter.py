"""The training process's side of the event pipe."""

import os
import threading
import time

from pydantic import JsonValue

from narrowcast.training import TrainingMetrics
from narrowcast_trainer.protocol import Event, Measured, Note, Tick

_TICK_EVERY_S = 1.0


class Reporter:
    """Writes events, whole lines at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._ticked_at = 0.0

    def send(self, event: Event) -> None:
        """Send one event; blocks while the pipe is full."""
        line = memoryview(event.model_dump_json().encode() + b"\n")
        with self._lock:
            while line:
                line = line[os.write(self._descriptor, line) :]

    def note(self, message: str, *, warn: bool = False, **data: JsonValue) -> None:
        """Tell the user something."""
        self.send(Note(message=message, level="warn" if warn else "info", data=data))

    def metrics(self, metrics: TrainingMetrics) -> None:
        """Report a measurement."""
        self.send(Measured(metrics=metrics))

    def tick(self) -> None:
        """Report that work moves, at most once a second."""
        now = time.monotonic()
        if now - self._ticked_at >= _TICK_EVERY_S:
            self._ticked_at = now
            self.send(Tick())

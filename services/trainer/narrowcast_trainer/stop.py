"""How a training process is told to stop: SIGTERM leaves a checkpoint, SIGINT leaves nothing."""

import signal
from types import FrameType


class StopSignal:
    """Remembers the signals; the training looks at it after each step."""

    def __init__(self) -> None:
        self.requested = False
        self.keep = True
        """Whether a checkpoint is wanted."""

    def install(self) -> None:
        """Take over SIGTERM and SIGINT of this process."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            self.keep = False

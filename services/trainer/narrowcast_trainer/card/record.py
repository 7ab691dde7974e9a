"""The record of a run, which travels inside its checkpoints: what is resumed keeps its whole past.

Trainer's own ``log_history`` has what was measured at each step; ``kept/run.json`` beside it has what
it says nothing of: which processes trained, on what, for how long.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from narrowcast import logs
from narrowcast.cards import Attempt, DataFile, Point, TokenCounts

_RUN: Final = Path("kept", "run.json")
_STATE: Final = "trainer_state.json"
_NAMES: Final = {
    "loss": "train_loss",
    "mean_token_accuracy": "train_accuracy",
    "eval_loss": "valid_loss",
    "eval_mean_token_accuracy": "valid_accuracy",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens": "tokens",
    "tokens_per_s": "tokens_per_s",
    "memory_bytes": "memory_bytes",
}
"""Ours by those of ``log_history``."""
_log = logs.get(__name__)


class RunRecord(BaseModel):
    """All that is known of a run."""

    attempts: list[Attempt] = []
    tokens: TokenCounts | None = None
    points: list[Point] = []
    files: list[DataFile] = []

    @property
    def quantization(self) -> str | None:
        """How the base was stored by the process that trained last; None if that was not written down."""
        return self.attempts[-1].quantization if self.attempts else None

    @property
    def peak_memory_bytes(self) -> int:
        """The most of the attempts like the last one, which may have seen but a few short rows itself."""
        likes = [(attempt.device, attempt.micro_batch) for attempt in self.attempts]
        peaks = [attempt.peak_memory_bytes for attempt in self.attempts]
        return max((peak for peak, like in zip(peaks, likes, strict=True) if like == likes[-1]), default=0)

    @property
    def trained_tokens(self) -> int | None:
        """Tokens of all steps, padding left out; None where they were not counted."""
        tokens = [point.tokens for point in self.points if point.tokens is not None]
        return sum(tokens) if tokens else None

    def write(self, checkpoint: Path) -> None:
        """Add it to a checkpoint that is about to be uploaded; the points are there already."""
        path = checkpoint / _RUN
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.model_dump_json(exclude={"points", "files"}))

    @classmethod
    def read(cls, checkpoint: Path) -> "RunRecord":
        """Return what a checkpoint says of the run so far; what it lacks, or is damaged, is left out."""
        try:
            record = cls.model_validate_json((checkpoint / _RUN).read_bytes())
        except (OSError, ValidationError):
            _log.warning("run_record_missing")
            record = cls()
        try:
            history = json.loads((checkpoint / _STATE).read_text())["log_history"]
        except (OSError, ValueError, KeyError):
            history = []
        return record.model_copy(update={"points": points_of(history)})


def points_of(history: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Return what a Trainer's ``log_history`` measured, one point a step, oldest first."""
    by_step: dict[int, dict[str, Any]] = {}
    for entry in history:
        if "loss" not in entry and "eval_loss" not in entry:
            continue  # the totals at the end
        measured = {
            ours: entry[theirs]
            for theirs, ours in _NAMES.items()
            if isinstance(entry.get(theirs), int | float) and math.isfinite(entry[theirs])
        }
        point = by_step.setdefault(int(entry["step"]), {"step": int(entry["step"])})
        # A validation comes after its step: what the step measured stays.
        by_step[point["step"]] = measured | point | {"epoch": float(entry["epoch"])}
    return [Point.model_validate(point) for _, point in sorted(by_step.items())]

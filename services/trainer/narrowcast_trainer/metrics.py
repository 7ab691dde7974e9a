"""Metrics of the training that this node runs; nothing but numbers that the training reports.

They live in the worker's only pool process, which hears those reports, and so does the server
that shows them. What must outlive a process is counted in Redis (``narrowcast.jobs.counters``).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter, Gauge

from narrowcast.training import TrainingMetrics
from narrowcast_trainer.protocol import Completed, Event, Measured, Note

_NOTHING: Final = math.nan
"""Of a training that does not run; Prometheus draws no point for it."""

RUNNING: Final = Gauge("narrowcast_training_running", "Trainings that run on this node: 0 or 1.")
STEP: Final = Gauge("narrowcast_training_step", "Optimizer steps taken.")
STEPS: Final = Gauge("narrowcast_training_planned_steps", "Optimizer steps that the training will take.")
TOKENS: Final = Gauge(
    "narrowcast_training_tokens_per_second", "Speed over the recent steps, without padding."
)
LOSS: Final = Gauge("narrowcast_training_loss", "The newest loss.", ["split"])
REMAINING: Final = Gauge("narrowcast_training_remaining_seconds", "Estimated time to the last step.")
PEAK_MEMORY: Final = Gauge(
    "narrowcast_training_peak_memory_bytes",
    "Most memory that the newest completed training held: of the GPU, or of its process without one.",
)
CHECKPOINTS: Final = Counter("narrowcast_training_checkpoints", "Checkpoints written to the object store.")


@contextmanager
def training() -> Iterator[None]:
    """Show that a training runs; forget its progress at its end."""
    _forget()
    try:
        with RUNNING.track_inprogress():
            yield
    finally:
        _forget()


def show(event: Event) -> None:
    """Take over what a training reports."""
    if isinstance(event, Measured):
        _measured(event.metrics)
    elif isinstance(event, Note) and "step" in event.data:  # the only note that carries a step
        CHECKPOINTS.inc()
    elif isinstance(event, Completed):
        metrics = event.result.get("metrics")
        peak = metrics.get("peak_memory_bytes") if isinstance(metrics, dict) else None
        if isinstance(peak, int | float):
            PEAK_MEMORY.set(peak)


def _measured(metrics: TrainingMetrics) -> None:
    STEP.set(metrics.step)
    STEPS.set(metrics.total_steps)
    if metrics.tokens_per_s is not None:
        TOKENS.set(metrics.tokens_per_s)
    if metrics.eta_s is not None:
        REMAINING.set(metrics.eta_s)
    for split, loss in (("train", metrics.train_loss), ("validation", metrics.valid_loss)):
        if loss is not None:
            LOSS.labels(split).set(loss)


def _forget() -> None:
    TOKENS.set(0)
    for gauge in (STEP, STEPS, REMAINING):
        gauge.set(_NOTHING)
    LOSS.clear()

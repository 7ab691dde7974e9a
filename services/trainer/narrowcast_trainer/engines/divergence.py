"""When a training has gone wrong for good: its loss or gradients are no numbers, or it only gets worse."""

import math
from bisect import insort
from collections import deque
from statistics import median

from narrowcast.errors import JobFailed

_WINDOW = 10
"""Steps whose median counts as the loss: five wild batches among ten do not move it out of range."""
_LASTING = 5
"""Steps in a row for which that median has to be too high: of every twentieth batch being hard, five fall
into one window now and then, and leave it again."""
WORSE_BY_NATS = 1.0
"""A model of 1 nat more gives every token a 2.7 times smaller probability."""
_WORSE_BY_DEVIATIONS = 4.0
"""The lowest and the highest of the medians of mere noise are within three of one another."""
_DIFFERENCES_BELOW = 0.9
"""Not the median: where most batches are easy, it knows nothing of those that are hard."""
_TO_DEVIATION = 1 / (1.6449 * math.sqrt(2))
"""From that quantile of the sizes of differences of two normal numbers: 1.6449 of their deviations."""
FP16_OVERFLOWS = 16
"""In a row: fp16's loss scale starts at 2^16 and halves at each, so after as many it scales nothing."""


class DivergenceWatch:
    """Judges the loss and the gradient norm of every step.

    A training diverges when the median loss of the last 10 steps is, for 5 steps in a row, above the lowest
    such median so far by more than 1 nat and by more than 4 standard deviations of the steps' losses (from
    how far neighbours lie apart, which knows no trend). A spike passes, as loss spikes do of their own accord
    (Chowdhery et al. 2022, PaLM, section 5.1): medians ignore it. So do hard batches, also many in a row,
    where rows are of two kinds: rows of one length go together, and so each batch is of one kind.
    Fine-tuning begins at a model that predicts text already, so a lasting rise by 1 nat is no phase of
    learning.

    Steps that throw the loss about from the first one on look like noise to themselves, and their lowest
    median is a high one; or they leave a model whose every guess is uniform, and no gradient. So whatever the
    noise, a median loss within 1 nat of that of guessing, or above it, is divergence; unless the base began
    there: the first step's loss, which is the base's, has to be lower by 2 nats. Between the two lies what
    was thrown about within the first 10 steps and then learns again, from a worse place than the base: its
    losses alone, of batches that differ, do not tell. The smoke test does, on the same rows with and without
    the adapter.

    The same losses give the same judgement, so a resumed run is shown those before it.
    """

    def __init__(self, *, learning_rate: float, overflows_allowed: int = 0) -> None:
        self.vocabulary: int | None = None
        """Tokens that a uniform guess would choose from; None: not known yet."""
        self._learning_rate = learning_rate
        self._overflows_allowed = overflows_allowed
        self._overflows = 0
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._differences: list[float] = []
        """Sizes of the steps from one loss to the next, in order of size."""
        self._first: float | None = None
        self._best = math.inf
        self._too_high = 0
        """Steps in a row."""

    def take(self, step: int, loss: float, grad_norm: float | None = None) -> None:
        """Judge one step.

        Args:
            step: its number.
            loss: in nats a label.
            grad_norm: of the whole adapter, before clipping; None if unknown.

        Raises:
            JobFailed: ``training_diverged``; or ``base_not_finite``: the first step's loss is the base's.
        """
        if not math.isfinite(loss):
            if self._first is None:
                raise _base_not_finite()
            raise self._diverged(step, "the loss is not a number")
        if grad_norm is not None and not math.isfinite(grad_norm):
            self._overflows += 1
            if self._overflows > self._overflows_allowed:
                raise self._diverged(step, "the gradient is not a number")
        else:
            self._overflows = 0
        if self._first is None:
            self._first = loss
        if self._recent:
            insort(self._differences, abs(loss - self._recent[-1]))
        self._recent.append(loss)
        if len(self._recent) < _WINDOW:
            return
        now = median(self._recent)
        self._check_guessing(step, now)
        deviation = _TO_DEVIATION * self._differences[int(len(self._differences) * _DIFFERENCES_BELOW)]
        worse = now > self._best + max(WORSE_BY_NATS, _WORSE_BY_DEVIATIONS * deviation)
        self._too_high = self._too_high + 1 if worse else 0
        if self._too_high >= _LASTING:
            raise self._diverged(step, f"the loss rose from {self._best:.2f} to {now:.2f} and stays there")
        self._best = min(self._best, now)

    def conclude(self, step: int) -> None:
        """Judge a run that has ended, perhaps before there were 10 steps.

        Raises:
            JobFailed: ``training_diverged``.
        """
        if self._recent:
            self._check_guessing(step, median(self._recent))

    def _check_guessing(self, step: int, now: float) -> None:
        if self.vocabulary is None or self._first is None:
            return
        if now > max(math.log(self.vocabulary) - WORSE_BY_NATS, self._first + 2 * WORSE_BY_NATS):
            raise self._diverged(
                step, f"the loss rose from {self._first:.2f} to {now:.2f}, which is that of mere guessing"
            )

    def _diverged(self, step: int, what: str) -> JobFailed:
        return diverged(f"at step {step}: {what}", self._learning_rate)


def diverged(what: str, learning_rate: float) -> JobFailed:
    """Return the reason of a training that made the model worse, with what to do.

    Args:
        what: when, and what it was seen by.
        learning_rate: at its highest.
    """
    return JobFailed(
        f"the training diverged {what}; lower learning_rate (it was {learning_rate:.2g}), or raise"
        " warmup_ratio or batch_size",
        code="training_diverged",
        param="learning_rate",
    )


def _base_not_finite() -> JobFailed:
    return JobFailed(
        "the loss is not a number before anything has been trained: the base model is damaged, or made for"
        " another precision than this node's (bf16 where it has fp16)",
        code="base_not_finite",
        param="model",
    )

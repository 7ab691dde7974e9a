"""Which rows go together, and in which order: decided by seed and epoch alone.

The Trainer's own length-grouped sampler draws from the global random state, so that a resumed
epoch goes on with other rows than the interrupted one would have had. This one gives the same
order again whenever it is asked.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Final

from narrowcast.estimates.shapes import Device

MICRO_BATCH_TOKENS: Final[dict[Device, int]] = {"cuda": 8192, "cpu": 1536}
"""By default. A CPU's are four rows of a report's length: twice as many gained 2 % for twice the memory."""

_GROUP_BATCHES = 50
"""Rows are sorted by length within so many batches: enough to leave little padding, few enough
that the batches of an epoch stay mixed."""


class LengthGrouped:
    """A sampler of row numbers for a PyTorch ``DataLoader``; neighbours are of similar length.

    Several ranks take micro-batches in turn, and each has to have as many. So an epoch is filled up to
    a multiple of what all of them take at once, with the number after the last row's: of a row that
    trains nothing. accelerate would fill it with rows, which would count twice.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, *, multiple: int = 1) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._fillers = fillers(len(lengths), multiple)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, whose order the next iteration gives."""
        self._epoch = int(epoch)

    def __len__(self) -> int:
        return len(self._lengths) + self._fillers

    def __iter__(self) -> Iterator[int]:
        order = random.Random(f"{self._seed}/{self._epoch}")  # noqa: S311 - not a secret
        rows = list(range(len(self._lengths)))
        order.shuffle(rows)
        size = self._batch_size
        group = size * _GROUP_BATCHES
        batches: list[list[int]] = []
        short: list[int] = []
        for start in range(0, len(rows), group):
            by_length = sorted(rows[start : start + group], key=lambda row: self._lengths[row])
            if rest := len(by_length) % size:
                # From anywhere: the longest ones would have a step to themselves in every epoch.
                at = order.randrange(len(by_length) - rest + 1)
                short = by_length[at : at + rest]
                del by_length[at : at + rest]
            batches += [by_length[at : at + size] for at in range(0, len(by_length), size)]
        order.shuffle(batches)
        # A short batch must be the last: the loader cuts its batches from a flat sequence.
        for batch in [*batches, short]:
            yield from batch
        yield from [len(self._lengths)] * self._fillers


def fillers(rows: int, multiple: int) -> int:
    """Return how many rows are missing to the next multiple."""
    return -rows % multiple

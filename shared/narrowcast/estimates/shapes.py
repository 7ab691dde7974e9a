"""What an estimate is asked about, and the ranges it answers in."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict

Engine = Literal["unsloth", "peft"]
Quantization = Literal["nf4", "int8", "none"]
Device = Literal["cuda", "cpu"]
Parallelism = Literal["ddp", "fsdp"]
"""How several GPUs share a training: each holds the base, or a part of it."""
LONGEST_ROW: Final = 131_072
"""Tokens; no base that is known here has a longer context."""


@dataclass(frozen=True)
class TrainingShape:
    """What of a training decides on its memory."""

    rank: int
    length: int
    """Tokens of the longest row, padding included."""
    micro_batch: int
    """Rows in one forward pass."""
    engine: Engine = "unsloth"
    quantization: Quantization = "nf4"
    device: Device = "cuda"
    autocast: bool = True
    """On a CPU: whether matrices are multiplied in bf16. On CUDA they always are in 16 bits."""
    memory_bytes: int | None = None
    """Of the GPU: ``unsloth`` sizes the pieces of its loss by what is free."""
    modules: tuple[str, ...] | None = None
    """The linears that LoRA is put on; None: all seven. Activations are counted as with all seven."""

    ranks: int = 1
    """GPUs that share the training; what is estimated is each one's."""
    parallelism: Parallelism = "ddp"

    @property
    def tokens(self) -> int:
        """Tokens in one forward pass."""
        return self.micro_batch * self.length


def ranks_that_share(batch_sizes: Iterable[int], most: int) -> int:
    """Return on how many GPUs to train: ``most``, if they share batches of these sizes evenly, else fewer."""
    sizes = set(batch_sizes)
    return next(ranks for ranks in range(most, 0, -1) if all(size % ranks == 0 for size in sizes))


def largest_micro_batch(longest: int, batch_size: int, tokens: int, most: int | None = None) -> int:
    """Return how many rows the trainer puts into one forward pass.

    Args:
        longest: tokens of the longest row.
        batch_size: rows per optimizer step; the answer divides it.
        tokens: what one forward pass may hold, padding included; one row always goes.
        most: rows that the answer is at most.
    """
    sizes = range(min(batch_size, most or batch_size), 0, -1)
    return next((size for size in sizes if batch_size % size == 0 and size * longest <= tokens), 1)


@dataclass(frozen=True)
class Batching:
    """How the trainer cuts batches into what goes through the model at once."""

    batch_sizes: tuple[int, ...]
    """Rows per optimizer step; several where a sweep chooses among them."""
    max_length: int
    """Tokens that a row may have."""
    longest: int | None = None
    """Tokens of the longest row; None: unknown."""
    tokens: int | None = None
    """What one forward pass may hold, padding included; None: any number."""
    max_micro_batch: int | None = None
    """In one forward pass."""
    ranks: int = 1
    """GPUs that share each batch evenly."""

    @property
    def shares(self) -> tuple[int, ...]:
        """Rows per optimizer step on each GPU."""
        return tuple(size // self.ranks for size in self.batch_sizes)

    def largest_pass(self) -> tuple[int, int]:
        """Return the rows, and the tokens of each, of the forward pass that takes most memory."""
        lengths = {min(self.max_length, self.longest or self.max_length)}
        if self.longest is None and self.tokens is not None:
            # Rows that are all a little shorter may go two at once, and are more together.
            lengths |= {min(self.max_length, self.tokens // rows) for rows in range(1, max(self.shares) + 1)}
        passes = (
            (largest_micro_batch(length, size, self.tokens or length * size, self.max_micro_batch), length)
            for length in lengths - {0}
            for size in self.shares
        )
        return max(passes, key=lambda one: (one[0] * one[1], one[1]))


class Range(BaseModel):
    """From the least that is plausible to the most, and in the middle what is expected."""

    model_config = ConfigDict(frozen=True)

    low: float
    expected: float
    high: float

    @classmethod
    def of(cls, low: float, high: float | None = None) -> Self:
        """Return a range; of one figure if only ``low`` is given."""
        high = low if high is None else high
        return cls(low=low, expected=(low + high) / 2, high=high)

    def __add__(self, other: "Range") -> "Range":
        return Range(
            low=self.low + other.low, expected=self.expected + other.expected, high=self.high + other.high
        )

    def __round__(self) -> "Range":
        return Range(low=round(self.low), expected=round(self.expected), high=round(self.high))

    def __mul__(self, factor: float) -> "Range":
        return Range(low=self.low * factor, expected=self.expected * factor, high=self.high * factor)

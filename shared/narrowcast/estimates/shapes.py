"""What an estimate is asked about, and the ranges it answers in."""

from dataclasses import dataclass
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict

Engine = Literal["unsloth", "peft"]
Quantization = Literal["nf4", "int8", "none"]
Device = Literal["cuda", "cpu"]
LONGEST_ROW: Final = 131_072
"""Tokens; no base that is known here has a longer context."""


@dataclass(frozen=True)
class TrainingShape:
    """What of a training decides on its memory."""

    rank: int
    length: int
    """Tokens of the longest row, padding included."""
    micro_batch: int
    """Rows that go through the model at once."""
    engine: Engine = "unsloth"
    quantization: Quantization = "nf4"
    device: Device = "cuda"
    autocast: bool = True
    """On a CPU: whether matrices are multiplied in bf16. On CUDA they always are in 16 bits."""
    memory_bytes: int | None = None
    """Of the GPU: ``unsloth`` sizes the pieces of its loss by what is free."""
    modules: tuple[str, ...] | None = None
    """The linears that LoRA is put on; None: all seven. Activations are counted as with all seven."""

    @property
    def tokens(self) -> int:
        """Tokens in one forward pass."""
        return self.micro_batch * self.length


def rows_at_once(longest: int, batch_size: int, tokens: int) -> int:
    """Return how many rows the trainer puts through the model at once.

    Args:
        longest: tokens of the longest row.
        batch_size: rows per optimizer step; the answer divides it.
        tokens: what one forward pass may hold, padding included; one row always goes.
    """
    fitting = (
        size for size in range(batch_size, 0, -1) if batch_size % size == 0 and size * longest <= tokens
    )
    return next(fitting, 1)


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

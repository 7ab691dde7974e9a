"""What to change so that a training fits."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

from pydantic import BaseModel

from narrowcast.estimates.shapes import Engine, Range, TrainingShape

Parameter = Literal["max_length", "micro_batch", "rank", "engine", "quantization"]
Settings = dict[Parameter, int | str]

_SHORTEST: Final = 256
"""Tokens; a report with its prompt hardly fits in less."""
_LOWEST_RANK: Final = 8
_FIELDS: Final[dict[Parameter, str]] = {
    "max_length": "length",
    "micro_batch": "micro_batch",
    "rank": "rank",
    "engine": "engine",
    "quantization": "quantization",
}
_CONSEQUENCES: Final[dict[Parameter, str]] = {
    "max_length": "rows that are longer must be shortened or left out",
    "micro_batch": "the same training, somewhat slower",
    "rank": "the adapter can learn less",
    "engine": "the same training, computed with less memory",
    "quantization": "the base is rounded to 4 bits while it is trained on",
}


class Change(BaseModel):
    """Settings with which the training fits, as the same estimator has it."""

    settings: Settings
    required: Range
    """Bytes."""
    consequence: str


def changes(
    shape: TrainingShape,
    *,
    batch_size: int,
    best_engine: Engine,
    fits: Callable[[TrainingShape], Range | None],
) -> list[Change]:
    """Return what makes a training fit that does not.

    Each parameter alone is tried in the order of :data:`Parameter`, and of its values the first that
    suffices is taken. If none suffices alone, several are changed together, those that cost nothing
    but time before those that cost quality.

    Args:
        shape: what does not fit.
        batch_size: rows per optimizer step; a micro-batch divides it.
        best_engine: the one of the node that needs least.
        fits: returns what a training requires if it surely fits, else None.
    """
    options = _options(shape, batch_size, best_engine)
    found = []
    for parameter, values in options.items():
        alone = ({parameter: value} for value in values)
        found += list(itertools.islice(_fitting(shape, alone, fits), 1))
    return found or list(itertools.islice(_fitting(shape, _together(options), fits), 1))


def _options(shape: TrainingShape, batch_size: int, best_engine: Engine) -> dict[Parameter, list[Any]]:
    on_gpu = shape.device == "cuda"
    return {
        "max_length": _halves(shape.length, _SHORTEST),
        "micro_batch": [rows for rows in range(shape.micro_batch - 1, 0, -1) if batch_size % rows == 0],
        "rank": _halves(shape.rank, _LOWEST_RANK),
        "engine": [best_engine] if on_gpu and best_engine != shape.engine == "peft" else [],
        "quantization": ["nf4"] if on_gpu and shape.quantization != "nf4" else [],
    }


def _halves(value: int, least: int) -> list[int]:
    halves = itertools.takewhile(lambda half: half >= least, (value >> shift for shift in itertools.count(1)))
    return list(halves)


def _together(options: dict[Parameter, list[Any]]) -> Iterator[Settings]:
    # The last varies fastest: the first combination that fits changes what costs quality least.
    order: tuple[Parameter, ...] = ("max_length", "rank", "quantization", "micro_batch", "engine")
    for values in itertools.product(*([None, *options[parameter]] for parameter in order)):
        yield {parameter: value for parameter, value in zip(order, values, strict=True) if value is not None}


def _fitting(
    shape: TrainingShape,
    candidates: Iterator[Settings],
    fits: Callable[[TrainingShape], Range | None],
) -> Iterator[Change]:
    for settings in candidates:
        replaced: dict[str, Any] = {_FIELDS[parameter]: value for parameter, value in settings.items()}
        if (required := fits(dataclasses.replace(shape, **replaced))) is not None:
            costs = "; ".join(_CONSEQUENCES[parameter] for parameter in settings)
            yield Change(settings=settings, required=required, consequence=costs)

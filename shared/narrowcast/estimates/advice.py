"""What to change so that a training fits."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, cast

from pydantic import BaseModel

from narrowcast.estimates.shapes import Batching, Engine, Range, TrainingShape

Parameter = Literal["max_length", "micro_batch", "rank", "engine", "quantization"]
Settings = dict[Parameter, int | str]

_SHORTEST: Final = 256
"""Tokens; a report with its prompt hardly fits in less."""
_LOWEST_RANK: Final = 8
_OF_A_PASS: Final[dict[Parameter, str]] = {"max_length": "max_length", "micro_batch": "max_micro_batch"}
_CONSEQUENCES: Final[dict[Parameter | Engine, str]] = {
    "max_length": "rows that are longer must be shortened or left out",
    "micro_batch": "the same training, somewhat slower",
    "rank": "the adapter can learn less",
    "unsloth": "the same training, computed with less memory",
    "peft": "the same training, slower",
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
    batching: Batching,
    best_engine: Engine,
    fits: Callable[[TrainingShape], Range | None],
) -> list[Change]:
    """Return what makes a training fit that does not.

    Each parameter alone is tried in the order of :data:`Parameter`, and of its values the first that
    suffices is taken. If none suffices alone, several are changed together, those that cost nothing
    but time before those that cost quality.

    Args:
        shape: what does not fit.
        batching: by which batches would be cut anew: of shorter rows more go at once.
        best_engine: the one that the node takes of itself.
        fits: returns what a training requires if it surely fits, else None.
    """

    def changed(settings: Settings) -> TrainingShape:
        cut: dict[str, Any] = {_OF_A_PASS[name]: settings[name] for name in settings if name in _OF_A_PASS}
        others: dict[str, Any] = {name: settings[name] for name in settings if name not in _OF_A_PASS}
        rows, length = dataclasses.replace(batching, **cut).largest_pass()
        return dataclasses.replace(shape, micro_batch=rows, length=length, **others)

    def fitting(candidates: Iterable[Settings]) -> list[Change]:
        """Return the first one that fits, or none."""
        for settings in candidates:
            if (required := fits(changed(settings))) is not None:
                costs = "; ".join(_CONSEQUENCES[_costs_by(*setting)] for setting in settings.items())
                return [Change(settings=settings, required=required, consequence=costs)]
        return []

    options = _options(shape, batching, best_engine)
    alone = [fitting({parameter: value} for value in values) for parameter, values in options.items()]
    return list(itertools.chain(*alone)) or fitting(_together(options))


def _costs_by(parameter: Parameter, value: int | str) -> Parameter | Engine:
    return cast(Engine, value) if parameter == "engine" else parameter


def _options(shape: TrainingShape, batching: Batching, best_engine: Engine) -> dict[Parameter, list[Any]]:
    on_gpu = shape.device == "cuda"
    fewer = range(shape.micro_batch - 1, 0, -1)
    return {
        "max_length": _halves(shape.length, _SHORTEST),
        "micro_batch": [rows for rows in fewer if any(share % rows == 0 for share in batching.shares)],
        "rank": _halves(shape.rank, _LOWEST_RANK),
        # Of a small base peft's loss, in tiles, takes less than unsloth's.
        "engine": [engine for engine in (best_engine, "peft") if on_gpu and engine != shape.engine],
        "quantization": ["nf4"]
        if on_gpu and shape.parallelism != "fsdp" and shape.quantization != "nf4"
        else [],
    }


def _halves(value: int, least: int) -> list[int]:
    halves = itertools.takewhile(lambda half: half >= least, (value >> shift for shift in itertools.count(1)))
    return list(halves)


def _together(options: dict[Parameter, list[Any]]) -> Iterator[Settings]:
    # The last varies fastest: the first combination that fits changes what costs quality least.
    order: tuple[Parameter, ...] = ("max_length", "rank", "quantization", "micro_batch", "engine")
    for values in itertools.product(*([None, *options[parameter]] for parameter in order)):
        yield {parameter: value for parameter, value in zip(order, values, strict=True) if value is not None}

"""Sweeps: one training job of many runs, of which the one with the lowest validation loss is published."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MOST_TRIALS: Final = 50
"""A night's worth on one GPU; a search that needs more wants another method than this one."""

_Rank = Annotated[int, Field(ge=1, le=512)]
_Epochs = Annotated[int, Field(ge=1, le=50)]
_BatchSize = Annotated[int, Field(ge=1, le=512)]
_LearningRate = Annotated[float, Field(gt=0, lt=1)]
_Dropout = Annotated[float, Field(ge=0, lt=1)]
_WeightDecay = Annotated[float, Field(ge=0, le=1)]

_LEARNING_RATE_FACTOR: Final = 4.0
_HIGHEST_LEARNING_RATE: Final = 0.99
_DROPOUT: Final = 0.1
_LOWEST_RANK: Final = 8
_RANKS: Final = 3


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("the first bound must be below the second")
    return bounds


def _different(choices: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(choices)) < len(choices):
        raise ValueError("a choice is named twice")
    return choices


_Bounds = AfterValidator(_ascending)
_Choices = AfterValidator(_different)


class SearchSpace(BaseModel):
    """What a sweep varies; what is left out stays as the job has it.

    Floats are drawn between two bounds, whole numbers from a list of choices.
    """

    model_config = ConfigDict(extra="forbid")

    learning_rate: Annotated[tuple[_LearningRate, _LearningRate], _Bounds] | None = None
    """Drawn from its logarithm."""
    rank: Annotated[tuple[_Rank, ...], Field(min_length=1, max_length=10), _Choices] | None = None
    """Alpha goes with it, so that LoRA's scale, alpha / rank, stays the job's."""
    dropout: Annotated[tuple[_Dropout, _Dropout], _Bounds] | None = None
    weight_decay: Annotated[tuple[_WeightDecay, _WeightDecay], _Bounds] | None = None
    batch_size: Annotated[tuple[_BatchSize, ...], Field(min_length=1, max_length=10), _Choices] | None = None
    n_epochs: Annotated[tuple[_Epochs, ...], Field(min_length=1, max_length=10), _Choices] | None = None

    @model_validator(mode="after")
    def _something_is_varied(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("nothing is varied; leave sweep out for the default space")
        return self


def default_space(*, learning_rate: float, rank: int, alpha: int) -> SearchSpace:
    """Return the space around a job's own values, none of whose ranks is above the job's.

    Learning rates from a quarter to four times its own; its rank, a half and a quarter of it, but
    not below 8, nor where alpha, which goes with it, would be no whole number; a dropout of up to
    0.1, QLoRA's for models of this size (Dettmers et al. 2023).
    """
    lowest, highest = learning_rate / _LEARNING_RATE_FACTOR, learning_rate * _LEARNING_RATE_FACTOR
    halves = [half for shift in range(_RANKS) if alpha * (half := rank >> shift) % rank == 0]
    return SearchSpace(
        learning_rate=(lowest, min(highest, _HIGHEST_LEARNING_RATE)),
        rank=tuple(sorted({half for half in halves if half >= min(rank, _LOWEST_RANK)})),
        dropout=(0.0, _DROPOUT),
    )


TrialState = Literal["complete", "pruned", "failed"]


class Trial(BaseModel):
    """One finished run of a sweep."""

    number: int
    """From 1."""
    state: TrialState
    hyperparameters: dict[str, Any]
    """What the sweep varied, with this trial's values."""
    valid_loss: float | None = None
    """Its lowest, nats a trained token; None for one that failed."""
    valid_losses: tuple[float, ...] = ()
    """After each of its epochs."""
    seconds: float = 0.0
    error: str | None = None
    """Code of what it failed of."""


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Return the complete trial with the lowest validation loss, the earlier of two equal ones."""
    complete = [trial for trial in trials if trial.state == "complete" and trial.valid_loss is not None]
    return min(complete, key=lambda trial: (trial.valid_loss, trial.number), default=None)

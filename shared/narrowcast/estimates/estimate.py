"""Puts the parts together: the one estimate that the gateway answers and the command line prints."""

from dataclasses import dataclass, replace
from typing import Final, Literal

from pydantic import BaseModel

from narrowcast.estimates.advice import Change, changes
from narrowcast.estimates.architecture import Architecture
from narrowcast.estimates.duration import flops_per_token, steps, unit_flops
from narrowcast.estimates.history import Correction, NodeFacts
from narrowcast.estimates.memory import context, memory_terms, slack, uncertain
from narrowcast.estimates.shapes import Batching, Parallelism, Range, TrainingShape

Fits = Literal["yes", "perhaps", "no"]
_SECONDS_A_MINUTE: Final = 60


@dataclass(frozen=True)
class Plan:
    """A training to be estimated."""

    shape: TrainingShape
    rows: int
    epochs: int
    batching: Batching
    tokens_per_row: float | None = None
    """On average; None takes the longest row for all, so that the time is an upper bound."""
    trials: int = 1
    """Runs of a sweep. The time is that of all, as if none were pruned; steps are one run's."""

    @property
    def mean_tokens(self) -> float:
        """Tokens of a row on average, or at most."""
        batching = self.batching
        return self.tokens_per_row or min(batching.max_length, batching.longest or batching.max_length)


class MemoryEstimate(BaseModel):
    """Bytes, at the peak."""

    weights: Range
    quantization_constants: Range
    lora: Range
    gradients: Range
    optimizer: Range
    activations: Range
    """With the temporaries of a step."""
    correction: Range
    """What finished jobs on this type of GPU took beyond activations and allocator, or below them."""
    allocator: Range
    """Reserved by PyTorch and not in use."""
    total: Range
    """All of the above: PyTorch's peak of reserved memory."""
    context: Range
    """CUDA's own, or that of a process without a GPU."""
    required: Range
    """Total and context: what the device must have."""


class TimeEstimate(BaseModel):
    """Of the training alone: without the queue, loading, validation and publishing."""

    tokens_per_s: Range
    minutes: Range


class Estimate(BaseModel):
    """What a training will need."""

    parameters: int
    trainable_parameters: int
    steps: int
    memory: MemoryEstimate
    time: TimeEstimate | None
    """None for a GPU whose speed is not known, until a job has been measured there."""
    device: str
    device_memory_bytes: int
    gpus: int
    """That share the training; memory is what each of them needs."""
    parallelism: Parallelism
    fits: Fits
    """``perhaps``: what is expected fits, the upper end does not."""
    changes: list[Change]
    """If it may not fit: what would, in the order in which to try."""
    corrected_by_jobs: int


def estimate(
    architecture: Architecture,
    plan: Plan,
    node: NodeFacts,
    correction: Correction | None = None,
) -> Estimate:
    """Return what the training needs on a node.

    Raises:
        InvalidInput: the engine does not run on that device.
    """
    correction = correction or Correction()
    shape = replace(plan.shape, device=node.device, memory_bytes=node.memory_bytes)
    plan = replace(plan, shape=shape)
    memory = estimate_memory(architecture, plan.shape, correction)
    fits = _fits(memory, node)
    return Estimate(
        parameters=architecture.parameters,
        trainable_parameters=architecture.lora_parameters(plan.shape.rank, plan.shape.modules),
        steps=steps(plan.rows, min(plan.batching.batch_sizes), plan.epochs),
        memory=memory,
        time=_time(architecture, plan, node, correction),
        device=node.name,
        device_memory_bytes=node.memory_bytes,
        gpus=plan.shape.ranks,
        parallelism=plan.shape.parallelism,
        fits=fits,
        changes=[] if fits == "yes" else _changes(architecture, plan, node, correction),
        corrected_by_jobs=correction.jobs,
    )


def estimate_memory(
    architecture: Architecture, shape: TrainingShape, correction: Correction | None = None
) -> MemoryEstimate:
    """Return the peak by purpose."""
    terms = {name: round(term) for name, term in memory_terms(architecture, shape).items()}
    computed = sum(terms.values(), Range.of(0))
    extra = round(uncertain(terms, shape) * ((correction or Correction()).memory - 1))
    allocator = round(slack(computed))
    total = computed + extra + allocator
    own = context(shape)
    return MemoryEstimate(
        **terms, correction=extra, allocator=allocator, total=total, context=own, required=total + own
    )


def _fits(memory: MemoryEstimate, node: NodeFacts) -> Fits:
    if memory.required.high <= node.memory_bytes:
        return "yes"
    return "perhaps" if memory.required.expected <= node.memory_bytes else "no"


def _time(
    architecture: Architecture, plan: Plan, node: NodeFacts, correction: Correction
) -> TimeEstimate | None:
    tokens_per_row = plan.mean_tokens
    flops = correction.speed(unit_flops(plan.shape, node.name))
    if flops is None:
        return None
    units = node.cores if plan.shape.device == "cpu" else 1
    speed = flops * (units / flops_per_token(architecture, plan.shape, tokens_per_row))
    # From no faster than one GPU, where they wait for one another most of the time, to as fast as all.
    speed = Range.of(speed.low, speed.high * plan.shape.ranks) if plan.shape.ranks > 1 else speed
    tokens = plan.trials * plan.rows * plan.epochs * tokens_per_row
    minutes = [tokens / rate / _SECONDS_A_MINUTE for rate in (speed.high, speed.expected, speed.low)]
    return TimeEstimate(
        tokens_per_s=speed, minutes=Range(low=minutes[0], expected=minutes[1], high=minutes[2])
    )


def _changes(architecture: Architecture, plan: Plan, node: NodeFacts, correction: Correction) -> list[Change]:
    def fits(shape: TrainingShape) -> Range | None:
        # Of another engine's jobs nothing is known here.
        known = correction if shape.engine == plan.shape.engine else Correction()
        memory = estimate_memory(architecture, shape, known)
        return memory.required if _fits(memory, node) == "yes" else None

    return changes(
        plan.shape,
        batching=plan.batching,
        best_engine=node.engine,
        fits=fits,
    )

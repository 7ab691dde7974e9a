"""What trainers report for estimates, in Redis: their GPUs, their base models, what jobs really took.

Live state, so Redis: the gateway has no access to a trainer's disk, and a trainer that is scaled to
zero must still be known. Keyed by the type of GPU, not by the node, so that nothing piles up.
"""

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

import redis
from pydantic import BaseModel, Field, ValidationError

from narrowcast.errors import NotFound
from narrowcast.estimates.shapes import Device, Engine, Parallelism, Quantization, Range

_M = TypeVar("_M", bound=BaseModel)
_NODES, _BASES = "nc:estimates:nodes", "nc:estimates:bases"
KEPT_OBSERVATIONS: Final = 9
"""The newest ones that count: what an engine needs changes with its version."""
_ALIKE: Final = 3.0
"""Times the parameters: 8B and 14B, not 0.5B and 8B."""
_STORED_OBSERVATIONS: Final = 4 * KEPT_OBSERVATIONS
"""Of bases of all sizes."""
_MEASURED_SPREAD: Final = Range.of(0.5, 1.5)
"""As wide about the middle as the guess for GPUs that are known (15 - 45 %): rows differ in length."""
_PRIOR: Final = (1.0, 1.0)
"""The formula's own two votes in the median: one odd job, the first included, moves nothing alone."""
_MEMORY_BOUNDS: Final = (0.5, 2.0)
_SPEED_BOUNDS: Final = (0.1, 10.0)
"""A correction beyond these would say that the formula, or the measurement, is of something else."""


class NodeFacts(BaseModel):
    """A type of node that trains."""

    name: str
    """Of the GPU as nvidia-smi gives it, or ``cpu``."""
    device: Device
    memory_bytes: int = Field(gt=0)
    """Of the GPU, or what a CPU's process may use."""
    engine: Engine
    """What ``auto`` means there."""
    quantization: Quantization
    """Likewise."""
    micro_batch_tokens: int = Field(gt=0)
    """Tokens of a forward pass there, at most."""
    gpus: int = Field(1, ge=1)
    """That one training uses there, at most."""
    parallelism: Parallelism = "ddp"
    cores: int = Field(1, ge=1)
    bf16: bool = True
    """Whether a CPU multiplies in bf16."""


class Observation(BaseModel):
    """What a finished job took."""

    parameters: int = Field(gt=0)
    """Of its base model."""
    memory_ratio: float = Field(gt=0, allow_inf_nan=False)
    """What is not exact of the estimate (:func:`narrowcast.estimates.memory.uncertain`), as measured, over
    what was expected of it without any correction."""
    flops: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Operations a second of the GPU, or of one core of the CPU, as estimates count them."""


class Correction(BaseModel):
    """What finished jobs on a type of GPU, with an engine, on bases of such a size, say of the next."""

    memory: float = 1.0
    """Multiplies what is not exact of an estimate."""
    flops: tuple[float, ...] = ()
    """Operations a second that were reached."""
    jobs: int = 0
    """That it comes from."""

    def speed(self, guess: Range | None) -> Range | None:
        """Return the operations a second to expect: the guess, corrected; without one, as measured."""
        if guess is not None:
            return guess * _median([one / guess.expected for one in self.flops], _SPEED_BOUNDS)
        return _MEASURED_SPREAD * statistics.median(self.flops) if self.flops else None


def corrected(observations: Iterable[Observation], parameters: int) -> Correction:
    """Return the correction that finished jobs suggest: medians, bounded, with a prior at 1.

    Args:
        observations: the newest first.
        parameters: of the base to be trained. Jobs of much smaller or larger ones are left out: a small base
            keeps no GPU busy, and what it takes beside its weights says nothing of a large one.
    """
    alike = (one for one in observations if 1 / _ALIKE <= one.parameters / parameters <= _ALIKE)
    known = list(itertools.islice(alike, KEPT_OBSERVATIONS))
    return Correction(
        memory=_median([one.memory_ratio for one in known], _MEMORY_BOUNDS),
        flops=tuple(one.flops for one in known if one.flops is not None),
        jobs=len(known),
    )


def _median(ratios: list[float], bounds: tuple[float, float]) -> float:
    # Of logarithms: twice and half are equally far from right.
    middle = math.exp(statistics.median(math.log(ratio) for ratio in (*_PRIOR, *ratios)))
    return min(max(middle, bounds[0]), bounds[1])


class EstimateFacts:
    """The facts in Redis. Raises ``redis.RedisError`` where it does not answer."""

    def __init__(self, client: redis.Redis) -> None:
        # redis-py types every answer as "bytes or str, or an awaitable of them"; ours decodes and is sync.
        self._redis: Any = client

    def report_node(self, node: NodeFacts, bases: Mapping[str, Mapping[str, Any]]) -> None:
        """Say what a node is, and the ``config.json`` of every base model it has."""
        self._redis.hset(_NODES, node.name, node.model_dump_json())
        for name, config in bases.items():
            self._redis.hset(_BASES, name, json.dumps(config))

    def nodes(self) -> list[NodeFacts]:
        """Return every type of node that has reported, by name."""
        return list(_readable(NodeFacts, (raw for _, raw in sorted(self._redis.hgetall(_NODES).items()))))

    def config(self, base: str) -> dict[str, Any]:
        """Return a base model's ``config.json``.

        Raises:
            NotFound: no trainer has reported it.
        """
        raw = self._redis.hget(_BASES, base)
        if raw is None:
            message = f"no trainer has reported the base model {base} yet"
            raise NotFound(message, code="base_model_unknown", param="model")
        config: dict[str, Any] = json.loads(raw)
        return config

    def observe(self, node: str, engine: str, observation: Observation) -> None:
        """Keep what a finished job took."""
        key = _observations(node, engine)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.lpush(key, observation.model_dump_json())
            pipe.ltrim(key, 0, _STORED_OBSERVATIONS - 1)
            pipe.execute()

    def correction(self, node: str, engine: str, parameters: int) -> Correction:
        """Return what jobs say of this type of GPU with this engine, for a base of so many parameters."""
        newest = self._redis.lrange(_observations(node, engine), 0, -1)
        return corrected(_readable(Observation, newest), parameters)


def _readable(kind: type[_M], raw: Iterable[str]) -> Iterator[_M]:
    for one in raw:
        # A trainer of another version may have written it.
        with suppress(ValidationError):
            yield kind.model_validate_json(one)


def _observations(node: str, engine: str) -> str:
    return f"nc:estimates:observations:{node}:{engine}"

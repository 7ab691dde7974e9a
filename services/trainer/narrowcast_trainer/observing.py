"""What a finished training really took, for the estimates of those to come."""

from collections.abc import Mapping
from typing import Any, Final

import redis

from narrowcast import logs
from narrowcast.errors import NarrowcastError
from narrowcast.estimates.architecture import read_architecture
from narrowcast.estimates.duration import flops_per_token
from narrowcast.estimates.history import EstimateFacts, NodeFacts, Observation
from narrowcast.estimates.memory import memory_terms, uncertain
from narrowcast.estimates.shapes import TrainingShape
from narrowcast.jobs.records import Job
from narrowcast.training import TrainingSpec
from narrowcast_trainer.node import base_configs, node_facts
from narrowcast_trainer.settings import TrainingSettings

_log = logs.get(__name__)
_LEAST_RATIO: Final = 0.01
"""A ratio is above 0; corrections are bounded by more than that."""


def observe(facts: EstimateFacts, settings: TrainingSettings, job: Job, result: Mapping[str, Any]) -> None:
    """Keep what a finished job took; never raises, because the job has succeeded."""
    try:
        spec = TrainingSpec.model_validate(job.spec)
        if spec.hyperparameters.n_trials > 1:
            return  # its peak is that of all trials, which had several ranks
        if settings.nproc_per_node > 1:
            return  # the speed of several GPUs, or a part of the base on each: of no single one
        node = node_facts(settings)
        config = base_configs(settings.models_dir)[spec.base_model]
        facts.observe(node.name, result["engine"], observation(config, spec, node, result))
    except (NarrowcastError, redis.RedisError, KeyError, TypeError, ValueError, ZeroDivisionError):
        # Estimates stay as they were: an unknown architecture, a job resumed from an older version.
        _log.warning("training_not_observed", exc_info=True)


def observation(
    config: Mapping[str, Any], spec: TrainingSpec, node: NodeFacts, result: Mapping[str, Any]
) -> Observation:
    """Return what a job took, beside what the uncorrected formula gives for it.

    Args:
        config: the base's ``config.json``.
        spec: of the job.
        node: where it ran.
        result: the job's.

    Raises:
        KeyError: the result lacks a measurement.
        InvalidInput: there is no estimate for this base.
        ValueError: the measurements are no positive numbers.
    """
    metrics = result["metrics"]
    hyper = spec.hyperparameters
    architecture = read_architecture(config)
    shape = TrainingShape(
        rank=hyper.rank,
        length=int(metrics["longest_row_tokens"]),
        micro_batch=int(metrics["micro_batch"]),
        engine=result["engine"],
        quantization=result.get("quantization", "none"),
        device=node.device,
        autocast=node.bf16,
        memory_bytes=node.memory_bytes,
        modules=hyper.module_names,
    )
    terms = memory_terms(architecture, shape)
    exact = sum(term.expected for name, term in terms.items() if name != "activations")
    # What is measured: on CUDA what PyTorch has reserved, else the whole process.
    beyond = metrics["peak_memory_bytes"] - exact
    tokens_per_row = result["trained_tokens"] / (metrics["steps"] * hyper.batch_size)
    speed = metrics.get("tokens_per_s")
    units = node.cores if node.device == "cpu" else 1
    return Observation(
        parameters=architecture.parameters,
        # Below what is exact: unsloth has put the embedding into the host's memory.
        memory_ratio=max(beyond / uncertain(terms, shape).expected, _LEAST_RATIO),
        flops=speed * flops_per_token(architecture, shape, tokens_per_row) / units if speed else None,
    )

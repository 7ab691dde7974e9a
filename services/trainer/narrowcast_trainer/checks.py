"""What can be refused is refused here, on the CPU, before anything is asked of a GPU."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from narrowcast.adapters import base_fingerprint, check_servable
from narrowcast.context import context_length
from narrowcast.errors import InvalidInput, JobFailed
from narrowcast.estimates.shapes import Parallelism
from narrowcast.masking import stop_ids
from narrowcast.storage import Bucket
from narrowcast.training import Hyperparameters, QuantizationName, TrainingSpec
from narrowcast_trainer.base_model import check_complete
from narrowcast_trainer.data import Example, Rows, pad_id, read_rows, tokenize
from narrowcast_trainer.protocol import TrainingOrder
from narrowcast_trainer.ranks import check_gpus, rank_count

_SOME_GPU: Final = (0, 0)


@dataclass(frozen=True)
class CheckedBase:
    """A base model that is here, whole, and the one that is served."""

    folder: Path
    fingerprint: str


@dataclass(frozen=True)
class CheckedRows:
    """Rows that can be trained on, as they are and as tokens."""

    rows: Rows
    train: list[Example]
    validation: list[Example]
    pad_id: int
    hyperparameters: Hyperparameters
    """Those of the job; ``max_length`` is the base's own where that is less."""


def check_base(order: TrainingOrder) -> CheckedBase:
    """Look at the base model that an order names, and at the adapter's rank and layers.

    Raises:
        InvalidInput: this node has no such base, or not all of it; or ``unservable_adapter``.
        JobFailed: ``base_not_served`` or ``unknown_target_modules``.
    """
    check_servable({"r": order.spec.hyperparameters.largest_rank}, order.settings.max_lora_rank)
    folder = base_folder(order.settings.models_dir, order.spec.base_model)
    check_complete(folder)
    fingerprint = base_fingerprint(folder)
    check_served(order.spec, fingerprint)
    check_modules(folder, order.spec.hyperparameters.module_names)
    return CheckedBase(folder, fingerprint)


def check_modules(base: Path, modules: Sequence[str] | None) -> None:
    """Check that a base has the layers that are to get an adapter, by the names in its weights' headers.

    Args:
        base: its folder.
        modules: kinds of linear layer; None: all that it has.

    Raises:
        JobFailed: ``unknown_target_modules``, naming those that it lacks.
    """
    if modules is None:
        return
    from safetensors import safe_open

    kinds: set[str] = set()
    for shard in base.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as weights:
            kinds |= {name.rpartition(".weight")[0].rpartition(".")[2] for name in weights.keys()}  # noqa: SIM118
    if missing := [name for name in modules if name not in kinds]:
        raise JobFailed(
            f"the base model has no {', '.join(missing)}; all-linear fits every base",
            code="unknown_target_modules",
            param="target_modules",
        )


def check_ranks(order: TrainingOrder) -> None:
    """Check that the node's GPUs can share the job's batches.

    Raises:
        JobFailed: ``batch_size_not_shared``.
    """
    settings, hyper = order.settings, order.spec.hyperparameters
    if settings.parallelism == "fsdp" and rank_count(settings, hyper) == 1:
        raise JobFailed(
            f"this node shards a base over {settings.nproc_per_node} GPUs, no two of which share batches of"
            f" {hyper.batch_size} rows evenly; choose an even batch_size",
            code="batch_size_not_shared",
            param="batch_size",
        )


def check_rows(order: TrainingOrder, data: Bucket, base: Path) -> CheckedRows:
    """Read the job's rows and make tokens of them, all of them or none.

    Imports Transformers: an engine that has to be imported before it must be there already.

    Raises:
        NotFound: a dataset is not there.
        InvalidInput: rows would be cut, or train nothing, or no end of their answer; by their numbers.
    """
    rows = read_rows(data, order)
    if order.spec.hyperparameters.n_trials > 1 and not rows.validation:
        raise InvalidInput(
            "a sweep compares its trials by their validation loss, and there are no rows for it",
            code="sweep_without_validation",
            param="validation_file",
        )

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    stops = stop_ids(tokenizer, _generation_config(base))
    hyperparameters, limit = order.spec.hyperparameters, "max_length"
    context = context_length(json.loads((base / "config.json").read_text()))
    if context is not None and context < hyperparameters.max_length:
        # Not only rows: unsloth stretches the positions of a base to the max_length it is told, and
        # the adapter would be trained on another model than is served.
        hyperparameters = hyperparameters.model_copy(update={"max_length": context})
        limit = "the base model's context"
    limits: dict[str, Any] = {"max_length": hyperparameters.max_length, "limit": limit, "stop_ids": stops}
    return CheckedRows(
        rows=rows,
        train=tokenize(rows.train, tokenizer, **limits, split="train"),
        validation=tokenize(
            rows.validation,
            tokenizer,
            **limits,
            split="validation",
            param="validation_file" if order.spec.validation_dataset else "training_file",
        ),
        pad_id=pad_id(tokenizer, stops),
        hyperparameters=hyperparameters,
    )


def check_engine(order: TrainingOrder) -> None:
    """Check that this node has what the job trains with; for a process that must not touch the GPU.

    Whether there is one is asked of the driver's library, as anything else would open a context
    on it; after that this process sees none.

    Raises:
        JobFailed: ``engine_unavailable``, ``quantization_unavailable`` or ``not_enough_gpus``.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch

    from narrowcast_trainer.engines import engine_name

    engine_name(order.spec.hyperparameters.engine, order.settings.parallelism)
    cuda = torch.cuda.is_available()
    if cuda:
        check_gpus(rank_count(order.settings, order.spec.hyperparameters))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    parallelism = order.settings.parallelism
    _check_quantization(order.spec.hyperparameters.quantization, cuda=cuda, parallelism=parallelism)


def _check_quantization(asked: QuantizationName, *, cuda: bool, parallelism: Parallelism = "ddp") -> None:
    from narrowcast_trainer.engines.precision import Capability, quantization

    quantization(asked, Capability(cuda=_SOME_GPU if cuda else None, cpu_bf16=False), parallelism)


def base_folder(models_dir: Path, name: str) -> Path:
    """Return the folder of a base model.

    Raises:
        InvalidInput: this node has no such base model.
    """
    folder = (models_dir / name).resolve()
    inside = folder.is_relative_to(models_dir.resolve())
    if not inside or not (folder / "config.json").is_file():
        raise InvalidInput(f"this trainer has no base model {name}", code="unknown_base_model", param="model")
    return folder


def check_served(spec: TrainingSpec, fingerprint: str) -> None:
    """Check that the adapter will fit the base that is served.

    Raises:
        JobFailed: ``base_not_served``.
    """
    if spec.served_fingerprints and fingerprint not in spec.served_fingerprints:
        raise JobFailed(
            f"this trainer's {spec.base_model} is not the one that is served: its fingerprint is"
            f" {fingerprint[:12]}…, the server's {spec.served_fingerprints[0][:12]}…; fetch the base anew",
            code="base_not_served",
            param="model",
        )


def _generation_config(base: Path) -> Any:
    from transformers import GenerationConfig

    if not (base / "generation_config.json").is_file():
        return None
    return GenerationConfig.from_pretrained(base, local_files_only=True)

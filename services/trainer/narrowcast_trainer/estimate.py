"""Estimates a training without any server: ``python -m narrowcast_trainer.estimate --config config.json``."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from narrowcast.context import context_length
from narrowcast.errors import InvalidInput
from narrowcast.estimates.advice import Change
from narrowcast.estimates.architecture import read_architecture
from narrowcast.estimates.estimate import Estimate, Plan, estimate
from narrowcast.estimates.history import NodeFacts
from narrowcast.estimates.memory import GIB
from narrowcast.estimates.shapes import Batching, Range, TrainingShape, ranks_that_share
from narrowcast.training import Hyperparameters
from narrowcast_trainer.estimate_table import PAPER, table
from narrowcast_trainer.node import cpu_facts, first_gpu, gpu_facts
from narrowcast_trainer.settings import MOST_GPUS, TrainingSettings

_MOST: Final = 10**9
_REFERENCE: Final = ("Tesla T4", 15 * GIB)
"""Where there is no GPU and none is named: the smallest one that the paper's recipe is meant for."""


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0, or 2 for what cannot be estimated."""
    options = _parser().parse_args(arguments)
    try:
        if options.table:
            sys.stdout.write(table())
            return 0
        if options.config is None:
            raise InvalidInput("--config is required, or --table", param="config")
        found = _estimate(_read(options.config), options)
    except InvalidInput as error:
        sys.stderr.write(f"{error.message}\n")
        return 2
    sys.stdout.write(_as_json(found) if options.json else _as_text(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m narrowcast_trainer.estimate",
        description="Memory and time of a LoRA training, from the base model's config.json alone.",
    )
    add = parser.add_argument
    add("--config", type=Path, help="the base model's config.json, or the folder that holds it")
    add("--rank", type=_positive, default=PAPER.rank, help="of LoRA (%(default)s)")
    add(
        "--max-length",
        type=_positive,
        default=PAPER.max_length,
        help="tokens a row (%(default)s)",
    )
    add(
        "--micro-batch",
        type=_positive,
        default=PAPER.micro_batch,
        help="rows at once, at most (%(default)s)",
    )
    add("--batch-size", type=_positive, default=PAPER.batch_size, help="rows a step (%(default)s)")
    add("--rows", type=_positive, default=PAPER.rows, help="of the training split (%(default)s)")
    add("--epochs", type=_positive, default=PAPER.epochs, help="(%(default)s)")
    add(
        "--tokens-per-row",
        type=_positive_number,
        help="on average; without it every row is taken for the longest",
    )
    add("--engine", choices=("unsloth", "peft"), help="unsloth, or peft with --device cpu")
    add("--quantization", choices=("nf4", "int8", "none"), help="nf4, or none with --device cpu")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="(%(default)s)")
    add("--gpu", help="its name, as nvidia-smi has it; this machine's, or a Tesla T4 if it has none")
    add(
        "--gpu-memory",
        type=_positive_number,
        metavar="GIB",
        help="its memory, needed with --gpu; or this machine's",
    )
    add("--gpus", type=_gpus, default=1, help="that share the training (%(default)s)")
    add(
        "--parallelism",
        choices=("ddp", "fsdp"),
        default="ddp",
        help="how they share it: each holds the base, or a part of it (%(default)s)",
    )
    add("--cores", type=_positive, help="of the CPU, with --device cpu; all that this process may use")
    add("--json", action="store_true", help="print JSON, in bytes and minutes")
    add("--table", action="store_true", help="print docs/estimates.md: common bases, the paper's recipe")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= _MOST:
        raise argparse.ArgumentTypeError(f"must be from 1 to {_MOST:,}")
    return number


def _gpus(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST_GPUS:
        raise argparse.ArgumentTypeError(f"must be from 1 to {MOST_GPUS}")
    return number


def _positive_number(text: str) -> float:
    number = float(text)
    if not 0 < number <= _MOST:
        raise argparse.ArgumentTypeError(f"must be a number above 0, at most {_MOST:,}")
    return number


def _read(path: Path) -> dict[str, Any]:
    path = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read as JSON", param="config") from error
    if not isinstance(config, dict):
        raise InvalidInput(f"{path} is not a model's config.json", param="config")
    return config


def _node(options: argparse.Namespace) -> NodeFacts:
    if options.parallelism == "fsdp" and options.gpus == 1:
        raise InvalidInput("fsdp shares a base among GPUs: --gpus must be above 1", param="gpus")
    if options.device == "cpu" and (options.gpus > 1 or options.gpu):
        name = "gpu" if options.gpu else "gpus"
        raise InvalidInput(f"--{name} needs --device cuda", param=name)
    settings = TrainingSettings(
        threads=options.cores, nproc_per_node=options.gpus, parallelism=options.parallelism
    )
    if options.device == "cpu":
        node = cpu_facts(settings)
    elif options.gpu:
        if not options.gpu_memory:
            raise InvalidInput("--gpu-memory says how much memory that GPU has", param="gpu_memory")
        node = gpu_facts(options.gpu, 1, settings, "unsloth")
    else:
        node = gpu_facts(*(first_gpu() or _REFERENCE), settings, "unsloth")
    memory = int(options.gpu_memory * GIB) if options.gpu_memory else node.memory_bytes
    return node.model_copy(update={"memory_bytes": memory})


def _check_job(options: argparse.Namespace) -> None:
    """Refuse what a job would be refused for: its estimate, and the advice in it, would be of no use."""
    asked = {name: getattr(options, name) for name in ("rank", "batch_size", "micro_batch", "max_length")}
    try:
        Hyperparameters.model_validate(asked | {"n_epochs": options.epochs})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).removeprefix("n_")
        message = f"--{name.replace('_', '-')}: no job may have that: {first['msg']}"
        raise InvalidInput(message, param=name) from None


def _estimate(config: dict[str, Any], options: argparse.Namespace) -> Estimate:
    architecture, context = read_architecture(config), context_length(config)
    _check_job(options)
    node = _node(options)
    batching = Batching(
        batch_sizes=(options.batch_size,),
        ranks=ranks_that_share([options.batch_size], node.gpus),
        max_length=min(options.max_length, context or options.max_length),  # as the trainer does
        tokens=node.micro_batch_tokens,
        max_micro_batch=options.micro_batch,
    )
    if options.tokens_per_row and options.tokens_per_row > batching.max_length:
        limit = "--max-length" if batching.max_length == options.max_length else "the base's context,"
        raise InvalidInput(
            f"--tokens-per-row {options.tokens_per_row:g} is above {limit} {batching.max_length}:"
            " a training refuses rows so long",
            param="tokens_per_row",
        )
    micro_batch, length = batching.largest_pass()
    shape = TrainingShape(
        rank=options.rank,
        length=length,
        micro_batch=micro_batch,
        engine=options.engine or node.engine,
        quantization=options.quantization or node.quantization,
        autocast=node.bf16,
        ranks=batching.ranks,
        parallelism=node.parallelism,
    )
    return estimate(
        architecture, Plan(shape, options.rows, options.epochs, batching, options.tokens_per_row), node
    )


def _as_json(found: Estimate) -> str:
    total = found.memory.total
    # In the unit of the paper's figure, and of nvidia-smi's.
    gib = {name: round(value / GIB, 3) for name, value in total.model_dump().items()}
    return json.dumps(found.model_dump() | {"total_gib": gib}, indent=1) + "\n"


def _as_text(found: Estimate) -> str:
    lines = [
        f"{found.trainable_parameters:,} trainable of {found.parameters:,} parameters, {found.steps} steps"
        + (f", on each of {found.gpus} GPUs" if found.gpus > 1 else ""),
        f"{'GiB':24}{'low':>9}{'expected':>10}{'high':>9}",
    ]
    lines += [f"{name.replace('_', ' '):24}" + _figures(value * (1 / GIB), 2) for name, value in found.memory]
    if found.time is not None:
        lines.append(f"{'minutes':24}" + _figures(found.time.minutes, 0))
    else:
        lines.append(
            "minutes unknown: the speed of this GPU is in no table here, and no job has been measured"
        )
    lines.append(f"fits {found.device} ({found.device_memory_bytes / GIB:.1f} GiB): {found.fits}")
    lines += [
        f"  with {_settings(change)}: {_gib(change.required)} ({change.consequence})"
        for change in found.changes
    ]
    if found.fits == "no" and not found.changes:
        lines.append("  no change makes it fit: take a smaller base model")
    return "\n".join(lines) + "\n"


def _figures(value: Range, digits: int) -> str:
    return f"{value.low:9.{digits}f}{value.expected:10.{digits}f}{value.high:9.{digits}f}"


def _settings(change: Change) -> str:
    return ", ".join(f"{parameter} {value}" for parameter, value in change.settings.items())


def _gib(value: Range) -> str:
    return f"{value.low / GIB:.1f} – {value.high / GIB:.1f} GiB"


if __name__ == "__main__":
    sys.exit(main())

"""Writes ``docs/estimates.md``: what common bases need for the paper's recipe."""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from narrowcast.estimates.architecture import Architecture, read_architecture
from narrowcast.estimates.estimate import estimate_memory
from narrowcast.estimates.memory import GIB
from narrowcast.estimates.shapes import Engine, Quantization, Range, TrainingShape


@dataclass(frozen=True)
class Recipe:
    """What the paper trained with."""

    rank: int = 64
    max_length: int = 2048
    micro_batch: int = 2
    batch_size: int = 8
    rows: int = 936
    epochs: int = 3


PAPER: Final = Recipe()
_PAPER_BASE: Final = "Llama-3.1-8B"
_CARDS_GIB: Final = (8, 12, 16, 24, 48, 80)
_COLUMNS: Final[tuple[tuple[Engine, Quantization], ...]] = (
    ("unsloth", "nf4"),
    ("peft", "nf4"),
    ("unsloth", "none"),
)

_PAGE: Final = """\
# What training needs

Made by `python -m narrowcast_trainer.estimate --table`; a test compares it with what the code prints.

GiB of GPU memory for the paper's recipe: rank {rank} on all seven linear layers, rows of {max_length}
tokens, {micro_batch} at once. *Low – **expected** – high* of what PyTorch reserves; the card must also hold
CUDA's own 0.25 – 0.75 GiB. The smallest card is one that holds the upper end with it, by its nominal size;
of some the driver keeps a part (a T4 has 15 of 16 GiB).

| base | parameters | trained | unsloth, NF4 | smallest card | peft, NF4 | unsloth, 16 bits |
|---|---|---|---|---|---|---|
{bases}

Shapes are those of the `config.json` in:

{sources}

## The paper's case, term by term

{base}, GiB. The paper reports a peak of 8.84 "GB", which is what Unsloth's notebooks print for
`torch.cuda.max_memory_reserved() / 1024 ** 3`: GiB, and without CUDA's context.

| term | low | expected | high |
|---|---|---|---|
{terms}

Where each comes from is written in `shared/narrowcast/estimates/memory.py` and `activations.py`. The range
has two causes: whether the loss runs compiled or, where that fails, eagerly, and how much of what PyTorch has
reserved lies idle. Neither can be known from a `config.json`, so the middle is expected, of rows as long as
the longest. The upper end holds for rows of any length: run eagerly, the loss of somewhat shorter ones, which
unsloth does not cut yet, takes most. Weights, LoRA, gradients and optimizer are exact. Beyond some 20,000
tokens a row the upper end is that of Unsloth's published table, which grows faster than what is counted here.

Not counted: on a card that a base hardly fits, unsloth moves the input embedding into the host's memory by
itself, and takes that much less.

## Several GPUs

Where the trainer shares a training among several `gpus`, memory is what each of them needs, and batches are
cut from its share (`--gpus`, `--parallelism`). Under `ddp` gradients count twice, for the buckets by which
the ranks exchange them. Under `fsdp` each GPU has its part of a 16-bit base, of LoRA, gradients and float32
optimizer states. Whole are two to three layers and the output layer, while it computes with them, and
gradients, in 16 bits, while they add up over several micro-batches. Minutes reach from those of one GPU to
those of all at full speed. None of it has been measured on several GPUs, and what their jobs take corrects
no estimate. Trainers of one type of GPU are to be set alike: the last that reported counts.

## Rows that are there

`POST /v1/fine_tuning/estimates` with a `training_file` measures: the served base's own tokenizer counts some
of the file's rows, and those with most letters (`measured_rows` in the answer). Their mean gives the minutes,
the longest one the memory. Where the server does not answer, and on the command line without
`--tokens-per-row`, every row is taken for the longest that may be, `max_length` or the base's context, and
both are upper bounds: memory is that of the largest forward pass that such rows can make (`micro_batch` rows
of `longest_row` tokens in the answer).

## What to change

`changes` are settings of a job with which it fits, worked out anew with each: of shorter rows the trainer
puts more through the model at once, so a smaller `max_length` seldom helps without a smaller `micro_batch`,
which is a hyper-parameter for just that. It changes nothing of what is learnt.

## How it corrects itself

Each finished job reports its measured peak and speed, per type of GPU and engine. The newest 9 count whose
base has between a third and three times the parameters: what a small base takes, and how little it keeps a
GPU busy, says nothing of a large one. Of memory it is what is not exact, activations and allocator, that is
compared with the uncorrected estimate and multiplied in the next ones: never less comes out than weights,
constants, LoRA, gradients and optimizer. The median of the ratios, together with two votes of 1 for the
formula, counts, from a half to two (a tenth to ten for speed). So no single job, however odd, changes
anything alone.

Without measured jobs the speed is 15 – 45 % of the data sheet's 16-bit operations; of a part of a GPU (MIG),
of its share. Take its minutes for an order of magnitude until this GPU has trained three jobs. A GPU that is
in no table has none until its first job, and then that job's speed, half of it, or half as much again.
"""


def table() -> str:
    """Return ``docs/estimates.md``."""
    file = resources.files("narrowcast_trainer") / "estimate_bases.json"
    bases = json.loads(file.read_text(encoding="utf-8"))
    return _PAGE.format(
        rank=PAPER.rank,
        max_length=PAPER.max_length,
        micro_batch=PAPER.micro_batch,
        bases="\n".join(_row(name, base["config"]) for name, base in bases.items()),
        sources="\n".join(f"- {name}: {base['source']}" for name, base in bases.items()),
        base=_PAPER_BASE,
        terms=_terms(read_architecture(bases[_PAPER_BASE]["config"])),
    )


def _row(name: str, config: dict[str, Any]) -> str:
    architecture = read_architecture(config)
    cells = [name, f"{architecture.parameters:,}", f"{architecture.lora_parameters(PAPER.rank):,}"]
    for engine, quantization in _COLUMNS:
        memory = estimate_memory(architecture, _shape(engine, quantization))
        cells.append(_cell(memory.total))
        if (engine, quantization) == _COLUMNS[0]:
            cells.append(_card(memory.required))
    return f"| {' | '.join(cells)} |"


def _shape(engine: Engine, quantization: Quantization) -> TrainingShape:
    return TrainingShape(PAPER.rank, PAPER.max_length, PAPER.micro_batch, engine, quantization)


def _cell(total: Range) -> str:
    return f"{total.low / GIB:.1f} – **{total.expected / GIB:.1f}** – {total.high / GIB:.1f}"


def _card(required: Range) -> str:
    fitting = (f"{size} GiB" for size in _CARDS_GIB if required.high <= size * GIB)
    return next(fitting, f"above {_CARDS_GIB[-1]} GiB")


def _terms(architecture: Architecture) -> str:
    memory = estimate_memory(architecture, _shape(*_COLUMNS[0]))
    rows = ((name.replace("_", " "), value) for name, value in memory)
    return "\n".join(
        f"| {name} | {value.low / GIB:.3f} | {value.expected / GIB:.3f} | {value.high / GIB:.3f} |"
        for name, value in rows
        if name != "correction"
    )

"""How fast is our training, and how much memory does it take? Ratios, each measured in one run.

``python benchmarks/training.py [--rows N] [--rounds 2] [--only trl|engines] [--models .local/models]
[--json]`` prints a table; its last line with ``--json`` is one JSON object:

- ``own_over_bare_trl_steps``: steps/s of the training process as the worker starts it over those of a bare
  TRL script with the same settings: the engine peft, an unquantised base, the same rows at once. The time is
  from the first step's begin to the last one's end, and has in it what goes on between: ours sends events,
  watches for divergence, records what the card shows, and halfway writes a checkpoint and uploads it to a
  real S3; the script halfway writes its own to the disk. A job does so every 300 s, so that here it weighs
  more. Not in it: loading, what is checked beforehand, smoke test, publishing; there is no validation on
  either side. Where ours wrote no checkpoint in that time, the benchmark fails.
- without CUDA, ``own_with_trl_loss_over_bare_trl_steps``: the same with TRL's loss on our side too. There
  ours computes a cheaper one, so that ``own_over_bare_trl_steps`` is that gain less our overhead, and this
  the overhead alone. On CUDA both compute TRL's.
- ``defaults_over_trl_defaults_tokens``: tokens/s, padding left out, of our defaults over TRL's. The
  adapter's shape is the same in both, since TRL has no default for it.
- with CUDA, on random weights in Llama-3.1-8B's shape, NF4, r=64, rows of 2,048 tokens, in tokens/s and
  in peak memory: ``unsloth_over_peft_tokens`` and ``unsloth_over_peft_memory``, our two engines;
  ``unsloth_over_bare_trl_tokens`` and ``unsloth_over_bare_trl_memory``, our default and a bare TRL script
  with the same settings and PyTorch's own allocator, from Ampere on (TRL's bf16 adapter cannot be trained
  in fp16); ``estimate_over_measured``, of the default's memory.

Every run is a process of its own. What is compared runs in turns, forwards and then backwards, and
the medians are compared, so that a machine that gets slower meanwhile favours nobody. On CUDA the first
steps, in which kernels are compiled and chosen, are left out on both sides.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from training_bench import CHECKPOINT_AT, Bench, Measurement, device, in_turns, object_store

from narrowcast.datasets import Row
from narrowcast.estimates.shapes import largest_micro_batch
from narrowcast.prompts import completion_messages, instruction_for, prompt_messages
from narrowcast.training import EngineName, Hyperparameters, TrainingSpec
from narrowcast_local.samples import generate
from narrowcast_trainer.batches import MICRO_BATCH_TOKENS
from narrowcast_trainer.data import Example, tokenize
from narrowcast_trainer.engines.precision import Precision, capability
from narrowcast_trainer.node import node_facts
from narrowcast_trainer.observing import observation
from narrowcast_trainer.settings import TrainingSettings

LARGE, LARGE_ROWS, LARGE_LENGTH = "random-8b", 96, 2048
ROWS = {"cuda": 1024, "cpu": 64}
"""By default: a step of the small base takes a GPU a fraction of a second."""
SAME, OWN, OWN_TRL_LOSS = "TRL, our settings", "ours", "ours, TRL's loss"
DEFAULTS, OWN_DEFAULTS = "TRL, its defaults", "our defaults"


def against_trl(bench: Bench, base: str, count: int, rounds: int) -> dict[str, Measurement]:
    """TRL set as ours, ours set as TRL's can be, TRL as it comes, and ours as it comes, on generated reports.

    Where it is not the same, ours with TRL's loss as well. A bare script's run comes first: it says when
    ours will be halfway.
    """
    rows = [
        Row(
            instruction=instruction_for(report.study),
            input=report.conclusion,
            output=report.description,
            document=report.id,
        )
        for report in generate(count)
    ]
    examples = tokens_of(rows, bench.settings.models_dir / base)
    tokens = sum(len(example.input_ids) for example in examples)
    hyper = Hyperparameters(n_epochs=1, max_length=max(len(example.input_ids) for example in examples))
    common = bare_order(bench, base, rows, hyper, nf4=False)
    dataset = bench.dataset(rows)
    plain = hyper.model_copy(update={"engine": "peft", "quantization": "none"})
    as_ours = common | {"arguments": same_settings(hyper, examples), "checkpoint_at": CHECKPOINT_AT}
    by_default = common | {"arguments": trl_defaults(hyper)}
    measured = {name: Measurement() for name in (SAME, OWN, DEFAULTS, OWN_DEFAULTS)}
    runs = [
        lambda: bench.bare(as_ours, tokens, measured[SAME]),
        lambda: bench.own(base, dataset, tokens, plain, measured[OWN], beside=measured[SAME]),
        lambda: bench.bare(by_default, tokens, measured[DEFAULTS]),
    ]
    if device() == "cuda":
        runs.append(lambda: bench.own(base, dataset, tokens, hyper, measured[OWN_DEFAULTS]))
    else:
        measured[OWN_DEFAULTS] = measured[OWN]  # that is what they are there, a checkpoint with them
        by_default["checkpoint_at"] = CHECKPOINT_AT
        slower = measured[OWN_TRL_LOSS] = Measurement()
        runs.append(
            lambda: bench.own(base, dataset, tokens, plain, slower, beside=measured[SAME], trl_loss=True)
        )
    in_turns(rounds, *runs)
    return measured


def bare_order(
    bench: Bench, base: str, rows: list[Row], hyper: Hyperparameters, *, nf4: bool
) -> dict[str, Any]:
    """Return what the bare script is told of base, rows and adapter."""
    file = bench.folder / f"{base}.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for row in rows:
            prompt, completion = prompt_messages(row.instruction, row.input), completion_messages(row.output)
            lines.write(json.dumps({"prompt": prompt, "completion": completion}, ensure_ascii=False) + "\n")
    shape = {
        "r": hyper.rank,
        "lora_alpha": hyper.alpha,
        "lora_dropout": hyper.dropout,
        "target_modules": hyper.target_modules,
    }
    return {"base": str(bench.settings.models_dir / base), "rows": str(file), "lora": shape, "nf4": nf4}


def same_settings(hyper: Hyperparameters, examples: list[Example]) -> dict[str, Any]:
    """Return what our trainer is told, in TRL's words."""
    node = capability()
    precision = Precision.of(node)
    lengths = [len(example.input_ids) for example in examples]
    at_once = largest_micro_batch(max(lengths), hyper.batch_size, MICRO_BATCH_TOKENS[device()])
    return {
        **trl_defaults(hyper),
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": hyper.batch_size // at_once,
        "learning_rate": hyper.learning_rate,
        "lr_scheduler_type": hyper.scheduler,
        "warmup_steps": hyper.warmup_ratio,
        "weight_decay": hyper.weight_decay,
        "optim": "adamw_8bit" if node.cuda else "adamw_torch_fused",
        "bf16": str(precision.autocast) == "torch.bfloat16",
        "fp16": str(precision.autocast) == "torch.float16",
        "gradient_checkpointing": node.cuda is not None,
        "model_init_kwargs": {"dtype": str(precision.base).removeprefix("torch.")},
        "train_sampling_strategy": "group_by_length",
        "logging_steps": 1,
    }


def trl_defaults(hyper: Hyperparameters) -> dict[str, Any]:
    """Return what TRL must be told to do the same work: the epochs, no row cut; and to leave nothing."""
    return {
        "num_train_epochs": hyper.n_epochs,
        "max_length": hyper.max_length,
        "seed": hyper.seed,
        "use_cpu": device() == "cpu",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def engines(bench: Bench, rounds: int, tokenizer: Path) -> dict[str, Measurement]:
    """Our engines and bare TRL on an 8B shape: weights are random, which changes neither speed nor memory."""
    base = bench.settings.models_dir / LARGE
    make_large(base, tokenizer)
    rows = long_rows(base)
    examples = tokens_of(rows, base)
    tokens = sum(len(example.input_ids) for example in examples)
    dataset = bench.dataset(rows)
    hyper = Hyperparameters(n_epochs=1, max_length=LARGE_LENGTH, learning_rate=1e-5)
    order = bare_order(bench, LARGE, rows, hyper, nf4=True) | {"arguments": same_settings(hyper, examples)}
    measured: dict[str, Measurement] = defaultdict(Measurement)

    def own(engine: EngineName) -> None:
        spec = hyper.model_copy(update={"engine": engine})
        bench.own(LARGE, dataset, tokens, spec, measured[engine])

    runs = [lambda: own("unsloth"), lambda: own("peft")]
    if order["arguments"]["bf16"]:
        runs.append(lambda: bench.bare(order, tokens, measured["bare_trl"]))
    in_turns(rounds, *runs)
    return measured


_MAKE_WEIGHTS = """
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM
torch.manual_seed(0)
with torch.device("cuda"):
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1]), dtype=torch.bfloat16)
model.save_pretrained(sys.argv[1])
"""


def make_large(folder: Path, tokenizer: Path) -> None:
    """Write random bf16 weights in Llama-3.1-8B's shape, with a small model's tokenizer and template."""
    from transformers import LlamaConfig

    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(tokenizer / name, folder / name)
    small = json.loads((tokenizer / "config.json").read_text())
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=False,
        **{name: small[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    config.save_pretrained(folder)
    # In a process of its own, which gives the GPU back.
    subprocess.run([sys.executable, "-c", _MAKE_WEIGHTS, str(folder)], check=True)


def long_rows(base: Path) -> list[Row]:
    """Return rows just below ``LARGE_LENGTH`` tokens, of reports laid end to end."""
    descriptions = (report.description for report in generate(LARGE_ROWS * 40))
    rows = []
    for number in range(LARGE_ROWS):
        text = ""
        while True:
            longer = f"{text} {next(descriptions)}".strip()
            row = Row(instruction=instruction_for(None), input="Норма.", output=longer, document=f"d{number}")
            if len(tokens_of([row], base)[0].input_ids) > LARGE_LENGTH:
                break
            text = longer
        rows.append(row.model_copy(update={"output": text}))
    return rows


@cache
def _tokenizer(base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base, local_files_only=True)


def tokens_of(rows: list[Row], base: Path) -> list[Example]:
    tokenizer = _tokenizer(base)
    return tokenize(rows, tokenizer, max_length=10**9, stop_ids={tokenizer.eos_token_id}, split="train")


def estimate_over_measured(bench: Bench, engine: str, measured: Measurement) -> float:
    """Return estimated over measured peak of reserved memory, the estimate uncorrected by earlier jobs."""
    config = json.loads((bench.settings.models_dir / LARGE / "config.json").read_text())
    hyper = Hyperparameters.model_validate({"n_epochs": 1, "engine": engine, "max_length": LARGE_LENGTH})
    spec = TrainingSpec(base_model=LARGE, dataset="", adapter_id="a", hyperparameters=hyper)
    return 1 / observation(config, spec, node_facts(bench.settings), measured.result).memory_ratio


def show(measured: dict[str, Measurement]) -> None:
    for name, of in measured.items():
        peak = f"{statistics.median(of.peak_bytes) / 2**30:8.2f} GiB" if of.peak_bytes else ""
        print(
            f"  {name:20s} {statistics.median(of.steps_per_s):8.4f} steps/s"
            f" {statistics.median(of.tokens_per_s):9.1f} tokens/s {peak}"
            f"   rounds: {' '.join(f'{value:.1f}' for value in of.tokens_per_s)}"
            f"   checkpoints: {' '.join(map(str, of.checkpoints))}"
        )


def ratio(one: list[float], other: list[float]) -> float:
    return round(statistics.median(one) / statistics.median(other), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=ROWS[device()], help="generated reports, one epoch of them a run"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["trl", "engines"], help="one of the two comparisons")
    parser.add_argument("--models", type=Path, default=Path(".local/models"))
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    here = str(Path(__file__).parent)  # from which a training process of ours takes own_trl_loss
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))

    ratios: dict[str, float] = {}
    unsaved: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, object_store(Path(scratch)) as storage:
        folder = Path(scratch)
        models = folder / "models"
        models.mkdir()
        shutil.copytree(options.models / options.base, models / options.base)
        bench = Bench(storage, TrainingSettings(models_dir=models, work_dir=folder / "work"), folder)
        if options.only != "engines":
            trl = against_trl(bench, options.base, options.rows, options.rounds)
            show(trl)
            ratios["own_over_bare_trl_steps"] = ratio(trl[OWN].steps_per_s, trl[SAME].steps_per_s)
            if slower := trl.get(OWN_TRL_LOSS):
                steps = ratio(slower.steps_per_s, trl[SAME].steps_per_s)
                ratios["own_with_trl_loss_over_bare_trl_steps"] = steps
            tokens = ratio(trl[OWN_DEFAULTS].tokens_per_s, trl[DEFAULTS].tokens_per_s)
            ratios["defaults_over_trl_defaults_tokens"] = tokens
            compared = (name for name in (SAME, OWN, OWN_TRL_LOSS) if name in trl)
            unsaved = [name for name in compared if 0 in trl[name].checkpoints]
        if options.only != "trl" and device() == "cuda":
            large = engines(bench, options.rounds, models / options.base)
            show(large)
            unsloth = large.pop("unsloth")
            for name, other in large.items():
                ratios[f"unsloth_over_{name}_tokens"] = ratio(unsloth.tokens_per_s, other.tokens_per_s)
                ratios[f"unsloth_over_{name}_memory"] = ratio(unsloth.peak_bytes, other.peak_bytes)
            ratios["estimate_over_measured"] = round(estimate_over_measured(bench, "unsloth", unsloth), 3)
    for name, value in ratios.items():
        print(f"  {name:40s} {value}")
    if unsaved:  # here and not before: what a GPU has taken minutes for is to be seen
        raise SystemExit(f"no checkpoint within the timed steps of {unsaved}: raise --rows")
    if options.json:
        print(json.dumps(ratios))


if __name__ == "__main__":
    main()

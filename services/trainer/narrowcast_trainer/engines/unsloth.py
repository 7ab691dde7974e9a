"""The engine for CUDA: unsloth's kernels.

Written against unsloth 2026.10.7. Everything that this module imports is heavy; only a training
process imports it, and it imports unsloth before Transformers, which unsloth patches.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from unsloth import FastLanguageModel

# isort: split
# What follows imports Transformers.

from transformers import TrainingArguments

from narrowcast.errors import JobFailed
from narrowcast.training import LINEAR_KINDS
from narrowcast_trainer.engines import precision as numbers
from narrowcast_trainer.engines.base import Trained, TrainingTask
from narrowcast_trainer.engines.loop import forget_earlier_runs, run
from narrowcast_trainer.engines.models import this_gpu
from narrowcast_trainer.engines.ordered import OrderedTrainer
from narrowcast_trainer.engines.precision import Precision, Quantization, quantization
from narrowcast_trainer.engines.smoke import SmokeTest

_TICK_S = 1.0


class UnslothEngine:
    """See :class:`~narrowcast_trainer.engines.base.Engine`."""

    name = "unsloth"

    def train(self, task: TrainingTask) -> Trained:
        """Run the task to its end."""
        node = numbers.capability()
        precision = Precision.of(node)
        stored = quantization(task.hyperparameters.quantization, node)
        task.reporter.note(
            "loading the base model",
            precision=str(precision.compute).removeprefix("torch."),
            quantization=stored,
        )
        return run(
            task,
            precision,
            stored,
            lambda: _model(task, precision, stored),
            # Transformers' own Trainer: unsloth puts its fused loss into the model's ``forward``. Not TRL's:
            # it rewrites that one's source when it is imported, to no gain for rows that are tokens already.
            OrderedTrainer,
            TrainingArguments,
            # get_peft_model has switched unsloth's own on.
            gradient_checkpointing=False,
        )

    def smoke_test(self, task: TrainingTask, adapter: Path) -> None:
        """Try the adapter out in a process that unsloth has not patched.

        So it is proven to be an ordinary one, that any PEFT, and vLLM, can load.
        """
        forget_earlier_runs()  # the other process needs the room
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            done = pool.submit(SmokeTest.of(task, adapter).run)
            while wait([done], _TICK_S).not_done:
                task.reporter.tick()
            remark = done.result()
        if remark:
            task.reporter.note(remark, warn=True)


def _model(task: TrainingTask, precision: Precision, stored: Quantization) -> Any:
    hyper = task.hyperparameters
    # Left to itself it asks how much memory is free, and lays a base for which that is too little on the
    # CPU, without a word, or refuses it as one that it cannot load. This way memory runs out, which is told.
    placed = {"device_map": where} if (where := this_gpu()) else {}
    try:
        base, _ = FastLanguageModel.from_pretrained(
            model_name=str(task.base),
            max_seq_length=hyper.max_length,
            dtype=precision.base,
            # NF4 with double quantisation, computed in ``dtype``.
            load_in_4bit=stored == "nf4",
            load_in_8bit=stored == "int8",
            load_in_16bit=stored == "none",
            # Or it trains on its own quantised upload of what it takes the model for.
            use_exact_model_name=True,
            local_files_only=True,
            random_state=hyper.seed,
            **placed,
        )
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise JobFailed(
            f"unsloth cannot load the base model {task.base.name}; the engine peft may",
            code="invalid_base_model",
            param="model",
        ) from error
    # By name, which is the path that its fused kernels cover.
    modules = LINEAR_KINDS if hyper.target_modules == "all-linear" else hyper.target_modules
    model = FastLanguageModel.get_peft_model(
        base,
        r=hyper.rank,
        target_modules=list(modules),
        lora_alpha=hyper.alpha,
        lora_dropout=hyper.dropout,
        bias="none",
        use_gradient_checkpointing="unsloth",
        random_state=hyper.seed,
    )
    # What it trains by a newer class of its own, int8 and some architectures, it names by a long regular
    # expression, which is then what adapter_config.json and the card say was trained.
    model.peft_config["default"].target_modules = set(modules)
    FastLanguageModel.for_training(model)
    return model

"""The engine that runs anywhere: Transformers, PEFT and TRL, on a CPU or on CUDA.

Everything that this module imports is heavy; only a training process imports it.
"""

import resource
import time
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl.trainer.sft_config import SFTConfig

from narrowcast.errors import JobFailed
from narrowcast_trainer.batches import MICRO_BATCH_TOKENS, LengthGrouped, micro_batch
from narrowcast_trainer.data import Example
from narrowcast_trainer.engines.base import Trained, TrainingStopped, TrainingTask
from narrowcast_trainer.engines.callback import JobCallback
from narrowcast_trainer.engines.completion import CompletionTrainer

_KIB = 1024


@dataclass(frozen=True)
class Precision:
    """In what numbers to train. The adapter's own weights are float32 in all of them."""

    base: torch.dtype
    autocast: torch.dtype | None

    @classmethod
    def of_this_node(cls) -> "Precision":
        """Return the fastest that the hardware computes natively."""
        if torch.cuda.is_available():
            # Turing (T4) has no bf16 units; emulated bf16 is slower than fp16.
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            half = torch.bfloat16 if bf16 else torch.float16
            return cls(half, half)
        cpu = torch.cpu.get_capabilities()
        if cpu.get("avx512_bf16") or cpu.get("amx_bf16"):
            # Not bf16 weights: float32 ones under bf16 autocast trained 212 tokens/s against 185
            # (SmolLM2-135M, 8 rows of 256 tokens, two cores with AVX-512 BF16).
            return cls(torch.float32, torch.bfloat16)
        return cls(torch.float32, None)


class PeftEngine:
    """See :class:`~narrowcast_trainer.engines.base.Engine`."""

    name = "peft"

    def train(self, task: TrainingTask) -> Trained:
        """Run the task to its end."""
        started = time.monotonic()
        # The parent chose the number of threads for the whole process.
        precision = Precision.of_this_node()
        task.reporter.note("loading the base model", precision=str(precision.base).removeprefix("torch."))
        trainer, callback = _build(task, precision)
        resume = str(task.resume.folder) if task.resume else None
        trainer.train(resume_from_checkpoint=resume)
        if task.stop.requested and not callback.finished:
            raise TrainingStopped(callback.checkpoint)
        adapter = task.scratch / "adapter"
        model: Any = trainer.model
        model.save_pretrained(adapter)
        earlier = task.resume.seconds if task.resume else 0.0
        metrics = callback.summary() | {
            "seconds": round(earlier + time.monotonic() - started, 1),
            "peak_memory_bytes": float(_peak_memory()),
            "trainable_parameters": float(model.num_parameters(only_trainable=True)),
            # What the memory was needed for; estimates learn from it.
            "micro_batch_rows": float(trainer.args.per_device_train_batch_size),
            "longest_row_tokens": float(max(len(example.input_ids) for example in task.train)),
        }
        return Trained(adapter, metrics)


def create() -> PeftEngine:
    """Return the engine."""
    return PeftEngine()


def _build(task: TrainingTask, precision: Precision) -> tuple[CompletionTrainer, JobCallback]:
    hyper = task.hyperparameters
    lengths = [len(example.input_ids) for example in task.train]
    rows_at_once = micro_batch(lengths, hyper.batch_size, _micro_batch_tokens(task))
    model = _model(task, precision)
    tokenizer = AutoTokenizer.from_pretrained(task.base, local_files_only=True)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(task.pad_id)
    callback = JobCallback(task)
    trainer = CompletionTrainer(
        model=model,
        args=_config(task, precision, rows_at_once),
        train_dataset=_dataset(task.train),
        # Sorted, so that a batch holds rows of one length.
        eval_dataset=_dataset(sorted(task.validation, key=lambda row: len(row.input_ids))) or None,
        processing_class=tokenizer,
        callbacks=[callback],
        order=LengthGrouped(lengths, hyper.batch_size, hyper.seed),
    )
    trainer.remove_callback(PrinterCallback)
    callback.watch(trainer)
    return trainer, callback


def _model(task: TrainingTask, precision: Precision) -> Any:
    hyper = task.hyperparameters
    torch.manual_seed(hyper.seed)  # LoRA's A is drawn here
    try:
        base = AutoModelForCausalLM.from_pretrained(task.base, dtype=precision.base, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise JobFailed(
            f"the base model {task.base.name} cannot be loaded", code="invalid_base_model", param="model"
        ) from error
    config = LoraConfig(
        r=hyper.rank,
        lora_alpha=hyper.alpha,
        lora_dropout=hyper.dropout,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def _config(task: TrainingTask, precision: Precision, rows_at_once: int) -> SFTConfig:
    hyper = task.hyperparameters
    cuda = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(task.scratch),
        num_train_epochs=hyper.n_epochs,
        per_device_train_batch_size=rows_at_once,
        per_device_eval_batch_size=rows_at_once,
        gradient_accumulation_steps=hyper.batch_size // rows_at_once,
        learning_rate=hyper.learning_rate * hyper.learning_rate_multiplier,
        lr_scheduler_type="linear",
        warmup_steps=hyper.warmup_ratio,  # below 1 it is a share of all steps
        weight_decay=hyper.weight_decay,
        optim="adamw_torch_fused",
        seed=hyper.seed,
        use_cpu=not cuda,
        bf16=precision.autocast is torch.bfloat16,
        fp16=precision.autocast is torch.float16,
        # Recomputing activations pays on a GPU, whose memory is what limits; not on a CPU.
        gradient_checkpointing=cuda,
        # The rows are tokens already, checked one by one: TRL would cut long ones and drop masked ones.
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=hyper.max_length,
        packing=False,
        pad_to_multiple_of=None,
        eval_strategy="epoch" if task.validation else "no",
        save_strategy="no",  # the callback says when
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would show the last good loss instead
        dataloader_pin_memory=cuda,
        disable_tqdm=True,
        report_to="none",
    )


def _micro_batch_tokens(task: TrainingTask) -> int:
    if task.settings.micro_batch_tokens is not None:
        return task.settings.micro_batch_tokens
    return MICRO_BATCH_TOKENS["cuda" if torch.cuda.is_available() else "cpu"]


def _dataset(examples: list[Example]) -> Dataset | None:
    if not examples:
        return None
    return Dataset.from_dict(
        {
            "input_ids": [example.input_ids for example in examples],
            "labels": [example.labels for example in examples],
        }
    )


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB

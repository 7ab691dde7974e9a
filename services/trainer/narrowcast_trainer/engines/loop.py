"""What every engine does alike: settings of the Trainer, the run itself, what it measured."""

import gc
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, DataCollatorForSeq2Seq, PrinterCallback

from narrowcast.errors import JobFailed
from narrowcast.estimates.duration import steps
from narrowcast.estimates.shapes import largest_micro_batch
from narrowcast_trainer.batches import MICRO_BATCH_TOKENS, LengthGrouped, fillers
from narrowcast_trainer.data import IGNORED, Example, filler
from narrowcast_trainer.engines.base import Trained, TrainingStopped, TrainingTask
from narrowcast_trainer.engines.best import save_adapter
from narrowcast_trainer.engines.callback import JobCallback
from narrowcast_trainer.engines.ordered import OrderedTrainer
from narrowcast_trainer.engines.precision import Precision, Quantization, check_quantized
from narrowcast_trainer.engines.recorder import Recorder
from narrowcast_trainer.engines.tracking import tracked
from narrowcast_trainer.protocol import Prepared
from narrowcast_trainer.ranks import world_size

_RANKS_WAIT_S = 3600
"""For one another: rank 0 alone uploads a checkpoint, to an object store that may be away meanwhile."""
_FSDP = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "cpu_ram_efficient_loading": True,
    # Each rank writes its part of a checkpoint. From a whole one, resuming hung (accelerate 1.15, two
    # ranks): one waited in a broadcast of the adapter, the other in the barrier after it.
    "state_dict_type": "SHARDED_STATE_DICT",
}


def run(
    task: TrainingTask,
    precision: Precision,
    stored: Quantization,
    load: Callable[[], Any],
    trainer_class: type[OrderedTrainer],
    arguments_class: Callable[..., Any],
    **arguments: Any,
) -> Trained:
    """Train; see :meth:`~narrowcast_trainer.engines.base.Engine.train`.

    Args:
        task: what to do.
        precision: of the computation.
        stored: how the base's weights are.
        load: returns the model with an untrained adapter on it.
        trainer_class: computes the loss.
        arguments_class: its ``TrainingArguments``.
        arguments: for those, beside the ones that all engines share.
    """
    started = time.monotonic()
    forget_earlier_runs()
    micro_batch = training_micro_batch(task)
    task.reporter.send(Prepared(micro_batch=micro_batch))
    callback = JobCallback(task, overflows=precision.autocast is torch.float16)
    recorder = Recorder(task, stored)
    # Before the model is loaded: with it the ranks of a training find one another.
    all_arguments = arguments_class(**common_arguments(task, precision, micro_batch) | arguments)
    if all_arguments.world_size != world_size():
        # Each would train alone on all rows, without a word. unsloth switches ranks off where it is imported
        # before there are any and sees one GPU.
        raise JobFailed("the ranks of this training have not found one another", code="ranks_apart")
    model: Any = load()
    check_quantized(model, stored)
    trainer = build_trainer(task, model, trainer_class, all_arguments, recorder, callback)
    if is_sharded(task) and not trainer.is_fsdp_enabled:
        # Without a word accelerate trains on a CPU as if nobody had asked it to shard.
        raise JobFailed(
            "parallelism is set to fsdp, which needs GPUs; set it to ddp", code="fsdp_unavailable"
        )
    try:
        with tracked(task) as trackers:
            for tracker in trackers:
                trainer.add_callback(tracker)
            trainer.train(resume_from_checkpoint=str(task.resume.folder) if task.resume else None)
            if task.stop.requested and not callback.finished:
                raise TrainingStopped(callback.checkpoint)
    except JobFailed:
        task.keep_record(recorder.record(), task.hyperparameters)
        raise
    model = trainer.model
    adapter = callback.best.folder
    if adapter is None:
        adapter = task.scratch / "adapter"
        save_adapter(model, adapter)
    earlier = task.resume.seconds if task.resume else 0.0
    record = recorder.record()
    metrics = callback.summary() | {
        "seconds": round(earlier + time.monotonic() - started, 1),
        "peak_memory_bytes": float(record.peak_memory_bytes),
        "trainable_parameters": float(model.num_parameters(only_trainable=True)),
        # What the memory was needed for; estimates learn from it.
        "micro_batch": float(min(micro_batch, len(task.train))),
        "longest_row_tokens": float(max(lengths(task))),
    }
    return Trained(adapter, stored, metrics, record)


def build_trainer(
    task: TrainingTask,
    model: Any,
    trainer_class: type[OrderedTrainer],
    arguments: Any,
    *callbacks: JobCallback | Recorder,
) -> OrderedTrainer:
    """Return the trainer of a model with an adapter on it."""
    tokenizer = AutoTokenizer.from_pretrained(task.base, local_files_only=True)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(task.pad_id)
    tokenizer.padding_side = "right"  # so that the causal mask alone hides padding from every token
    # What all ranks take at once; one rank takes short batches as they are.
    multiple = arguments.per_device_train_batch_size * arguments.world_size if arguments.world_size > 1 else 1
    order = LengthGrouped(
        lengths(task), task.hyperparameters.batch_size, task.hyperparameters.seed, multiple=multiple
    )
    # Sorted, so that a batch holds rows of one length.
    validation = sorted(task.validation, key=lambda row: len(row.input_ids))
    at_once = arguments.per_device_eval_batch_size * arguments.world_size if arguments.world_size > 1 else 1
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=_dataset([*task.train, filler(task.pad_id)] if multiple > 1 else task.train),
        eval_dataset=_dataset(validation + [filler(task.pad_id)] * fillers(len(validation), at_once)),
        processing_class=tokenizer,
        # Given, not left to the library: unsloth would lay the rows of a batch end to end otherwise.
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        callbacks=list(callbacks),
        order=order,
    )
    for parameter in model.parameters():
        # TRL makes them bf16 on a quantised base, which T4's gradient scaler cannot handle, and in
        # which small updates are lost.
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        callback.watch(trainer)
    return trainer


def common_arguments(task: TrainingTask, precision: Precision, micro_batch: int) -> dict[str, Any]:
    """Return what the ``TrainingArguments`` of every engine have in common."""
    hyper = task.hyperparameters
    cuda = torch.cuda.is_available()
    fsdp = is_sharded(task)
    return {
        "output_dir": str(task.scratch),
        "num_train_epochs": hyper.n_epochs,
        "per_device_train_batch_size": micro_batch,
        "per_device_eval_batch_size": _validation_micro_batch(task, micro_batch),
        "gradient_accumulation_steps": hyper.batch_size // (micro_batch * world_size()),
        "learning_rate": hyper.learning_rate * hyper.learning_rate_multiplier,
        "lr_scheduler_type": hyper.scheduler,
        "warmup_steps": _warmup_steps(task),
        "weight_decay": hyper.weight_decay,
        # 8-bit moments are a quarter of the memory; on a CPU there is no kernel for them.
        # Nor for a part of a tensor.
        "optim": "adamw_8bit" if cuda and not fsdp else "adamw_torch_fused",
        "seed": hyper.seed,
        "use_cpu": not cuda,
        "bf16": precision.autocast is torch.bfloat16,
        "fp16": precision.autocast is torch.float16,
        "eval_strategy": "epoch" if task.validation else "no",
        "save_strategy": "no",  # the callback says when
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would show the last good loss instead
        "dataloader_pin_memory": cuda,
        "disable_tqdm": True,
        "report_to": "none",  # see tracking: not all that the Trainer knows is for others
        "ddp_find_unused_parameters": False,
        "ddp_timeout": _RANKS_WAIT_S,
        **({"fsdp": True, "fsdp_config": _FSDP} if fsdp else {}),
    }


def _warmup_steps(task: TrainingTask) -> int:
    """Return the steps in which the rate rises from 0: not all of them, or nothing would be trained."""
    hyper = task.hyperparameters
    total = steps(len(task.train), hyper.batch_size, hyper.n_epochs)
    return min(math.ceil(hyper.warmup_ratio * total), total - 1)


def is_sharded(task: TrainingTask) -> bool:
    """Whether each rank holds a part of the base."""
    return world_size() > 1 and task.settings.parallelism == "fsdp"


def training_micro_batch(task: TrainingTask) -> int:
    """Return how many rows go through the model at once."""
    rows_of_a_rank = task.hyperparameters.batch_size // world_size()
    limits = (task.hyperparameters.micro_batch, task.max_micro_batch)
    most = min((limit for limit in limits if limit is not None), default=None)
    return largest_micro_batch(max(lengths(task)), rows_of_a_rank, _tokens_at_once(task), most)


def _validation_micro_batch(task: TrainingTask, micro_batch: int) -> int:
    """Return as many as in training, fewer where validation rows are longer."""
    longest = max((len(example.input_ids) for example in task.validation), default=0)
    return largest_micro_batch(longest, micro_batch, _tokens_at_once(task))


def _tokens_at_once(task: TrainingTask) -> int:
    if task.settings.micro_batch_tokens is not None:
        return task.settings.micro_batch_tokens
    return MICRO_BATCH_TOKENS["cuda" if torch.cuda.is_available() else "cpu"]


def lengths(task: TrainingTask) -> list[int]:
    """Return the tokens of each training row."""
    return [len(example.input_ids) for example in task.train]


def _dataset(examples: list[Example]) -> Dataset | None:
    if not examples:
        return None
    return Dataset.from_dict(
        {
            "input_ids": [example.input_ids for example in examples],
            "attention_mask": [[1] * len(example.input_ids) for example in examples],
            "labels": [example.labels for example in examples],
        }
    )


def forget_earlier_runs() -> None:
    """Give back the memory of models that are trained."""
    # The Trainer tells bitsandbytes' optimizers of each embedding, and they keep it: 1 GiB of an 8B base.
    if optimizers := sys.modules.get("bitsandbytes.optim"):
        optimizers.GlobalOptimManager.get_instance().initialize()
    # Trainer and callbacks refer to one another: only the collector ends them, and with them the model.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

"""Writes down what a training card will say, while the run goes on."""

import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from transformers import TrainerCallback

from narrowcast.cards import Attempt, TokenCounts
from narrowcast.estimates.shapes import Quantization
from narrowcast_trainer.card.record import RunRecord, points_of
from narrowcast_trainer.data import IGNORED, token_count
from narrowcast_trainer.engines.base import TrainingTask
from narrowcast_trainer.node import cpu_facts

_LIBRARIES: Final = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "unsloth")
_KIB: Final = 1024
_STATM: Final = Path("/proc/self/statm")


class Recorder(TrainerCallback):
    """Must come before the callback that uploads checkpoints, to which it adds its record."""

    def __init__(self, task: TrainingTask, stored: Quantization) -> None:
        self._task = task
        self._stored = stored
        self._earlier = RunRecord.read(task.resume.folder).attempts if task.resume else []
        self._attempt: Attempt | None = None
        self._trainer: Any = None
        self._history: list[dict[str, Any]] = []
        self._began = self._step_began = time.monotonic()
        self._tokens_before = 0
        self._step: dict[str, float] = {}

    def watch(self, trainer: Any) -> None:
        """Take the trainer whose tokens are counted."""
        self._trainer = trainer

    def record(self) -> RunRecord:
        """Return the run so far, earlier attempts included."""
        return RunRecord(
            attempts=[*self._earlier, *([self._attempt] if self._attempt else [])],
            tokens=_token_counts(self._task),
            points=points_of(self._history),
        )

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Note what trains, on what."""
        self._history = state.log_history
        self._began = time.monotonic()
        self._attempt = _attempt(self._task, self._stored, args, state, more["model"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the step's clock."""
        self._step_began = time.monotonic()
        self._tokens_before = self._trainer.trained_tokens

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop it."""
        tokens = self._trainer.trained_tokens - self._tokens_before
        seconds = max(time.monotonic() - self._step_began, 1e-9)
        self._step = {"tokens": tokens, "tokens_per_s": round(tokens / seconds, 1)}

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add to Trainer's own entry what it did not measure."""
        entry = state.log_history[-1]
        if "loss" in entry:
            entry.update(self._step, memory_bytes=peak_memory())
        self._update()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Let the record travel in the checkpoint."""
        self._update()
        if state.is_world_process_zero:
            self.record().write(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def _update(self) -> None:
        if self._attempt is not None:
            self._attempt.seconds = round(time.monotonic() - self._began, 1)
            self._attempt.peak_memory_bytes = peak_memory()


def _attempt(task: TrainingTask, stored: Quantization, args: Any, state: Any, model: Any) -> Attempt:
    trainable, everything = model.get_nb_trainable_parameters()
    device, memory = _device(task)
    return Attempt(
        first_step=state.global_step + 1,
        planned_steps=state.max_steps,
        device=device,
        devices=args.world_size,
        device_memory_bytes=memory,
        loaded_memory_bytes=_held_memory(),
        peak_memory_bytes=peak_memory(),
        precision="bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
        quantization=stored,
        optimizer=str(getattr(args.optim, "value", args.optim)),
        micro_batch=args.per_device_train_batch_size,
        accumulation_steps=args.gradient_accumulation_steps,
        trainable_parameters=trainable,
        all_parameters=everything,
        # Those that are loaded, whichever engine it is.
        libraries={name: version(name) for name in _LIBRARIES if name in sys.modules},
    )


def _device(task: TrainingTask) -> tuple[str, int]:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1]
    return f"CPU, {torch.get_num_threads()} threads", cpu_facts(task.settings).memory_bytes


def _held_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def peak_memory() -> int:
    """Return the most bytes held since the run began: on CUDA what PyTorch reserved, else the process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def _token_counts(task: TrainingTask) -> TokenCounts:
    return TokenCounts(
        train_rows=len(task.train),
        validation_rows=len(task.validation),
        train_tokens=token_count(task.train),
        answer_tokens=sum(label != IGNORED for row in task.train for label in row.labels),
        longest_row_tokens=max(len(row.input_ids) for row in task.train),
    )

"""What an engine is: base model and tokens in, a folder in PEFT's format out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from narrowcast.sweeps import Trial
from narrowcast.training import Hyperparameters
from narrowcast_trainer.card.record import RunRecord
from narrowcast_trainer.checkpoints import Resumable
from narrowcast_trainer.data import Example
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.settings import TrainingSettings
from narrowcast_trainer.stop import StopSignal


@dataclass(frozen=True)
class TrainingTask:
    """One training run."""

    base: Path
    hyperparameters: Hyperparameters
    settings: TrainingSettings
    train: list[Example]
    validation: list[Example]
    pad_id: int
    scratch: Path
    """A folder of its own."""
    resume: Resumable | None
    reporter: Reporter
    stop: StopSignal
    save_checkpoint: Callable[[Path, int, float], None]
    """Takes the folder that the trainer wrote, its step, and the seconds trained so far."""
    max_micro_batch: int | None = None
    """In one forward pass; None: as many as ``settings.micro_batch_tokens`` allows."""
    run_name: str = ""
    """By which a tracker knows it."""
    keep_record: Callable[[RunRecord, Hyperparameters], None] = lambda *_: None
    """Takes what is known of a run that fails."""
    should_prune: "ShouldPrune | None" = None
    """Asked after each validation whether the run, one of several, is worth its remaining epochs."""


class ShouldPrune(Protocol):
    """Judges a run by its validation losses, one an epoch."""

    def __call__(self, losses: Sequence[float], *, last: bool) -> bool:
        """Whether to go no further; ``last``: the run ends here anyway."""


@dataclass(frozen=True)
class Trained:
    """What a run made."""

    adapter: Path
    """Holds ``adapter_config.json`` and ``adapter_model.safetensors``."""
    quantization: str | None
    """How the base was stored meanwhile: ``nf4``, ``int8`` or ``none``; None where nobody wrote it down."""
    metrics: dict[str, float]
    """``train_loss`` (nats per trained token, the last epoch's), ``valid_loss`` and ``best_step`` (of the
    evaluation whose weights these are), ``seconds`` (over all attempts), ``steps``, ``tokens_per_s``
    (this attempt's, padding left out), ``trainable_parameters``, ``peak_memory_bytes`` (what PyTorch
    reserved on CUDA, without one the process's), ``micro_batch``, ``longest_row_tokens``."""
    record: RunRecord
    """Of all attempts; the training card is made of it."""
    trials: tuple[Trial, ...] = ()
    """All runs of the sweep that this was the best of."""


class TrainingStopped(Exception):
    """The run was asked to stop, and did."""

    def __init__(self, step: int | None) -> None:
        super().__init__()
        self.step = step
        """Step of the checkpoint that it left, if it left one."""


class Engine(Protocol):
    """Trains a LoRA adapter."""

    name: str

    def train(self, task: TrainingTask) -> Trained:
        """Run the task to its end.

        Raises:
            TrainingStopped: ``task.stop`` said so.
            JobFailed: ``training_diverged``, or the node lacks what the job names.
        """

    def smoke_test(self, task: TrainingTask, adapter: Path) -> None:
        """Load an adapter anew and try it on a few of the task's rows.

        Raises:
            JobFailed: ``smoke_test_failed``, or ``training_diverged``: the base alone is better.
        """

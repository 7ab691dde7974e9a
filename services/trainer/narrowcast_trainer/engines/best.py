"""The best weights so far, by validation loss, and whether waiting for better ones is worth while.

The paper's own finding is that its third epoch adds nothing. What is published is therefore the
adapter of the evaluation with the lowest validation loss, not the last one.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narrowcast_trainer.ranks import rank

_FOLDER = "best"
_IN_CHECKPOINT = Path("kept", _FOLDER)
"""Two levels down: an adapter in a folder of the checkpoint is one that Trainer resumes with."""


@dataclass(frozen=True)
class Evaluations:
    """What the validation losses so far say. From them alone, so a resumed run says the same."""

    losses: tuple[tuple[int, float], ...]
    """Step and loss in nats a label, oldest first."""

    @classmethod
    def of(cls, history: Iterable[dict[str, float]]) -> "Evaluations":
        """Read a Trainer's ``log_history``."""
        return cls(
            tuple((int(entry["step"]), entry["eval_loss"]) for entry in history if "eval_loss" in entry)
        )

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and loss of the lowest; the earlier of two equal ones."""
        return min(self.losses, key=lambda one: one[1], default=None)

    @property
    def last_is_best(self) -> bool:
        """Whether the newest is the lowest."""
        return bool(self.losses) and self.best == self.losses[-1]

    def exhausted(self, patience: int) -> bool:
        """Whether the last ``patience`` evaluations were none better than the best before; 0: never."""
        steps = [step for step, _ in self.losses]
        return self.best is not None and 0 < patience <= len(steps) - 1 - steps.index(self.best[0])


class BestAdapter:
    """The adapter of the best evaluation, on disk; it travels inside every checkpoint."""

    def __init__(self, scratch: Path) -> None:
        self._folder = scratch / _FOLDER

    @property
    def folder(self) -> Path | None:
        """In PEFT's format; None before the first evaluation."""
        return self._folder if self._folder.is_dir() else None

    def keep(self, model: Any) -> None:
        """Write the model's adapter in place of the earlier best; on several ranks all have to."""
        if rank() == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
        save_adapter(model, self._folder)

    def put_into(self, checkpoint: Path) -> None:
        """Add it to a checkpoint that is about to be uploaded."""
        if self.folder is not None:
            shutil.copytree(self.folder, checkpoint / _IN_CHECKPOINT, dirs_exist_ok=True)

    def take_from(self, checkpoint: Path) -> None:
        """Go on with the one of the checkpoint that a run is resumed from."""
        if (kept := best_in(checkpoint)) is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            shutil.copytree(kept, self._folder)


def best_in(checkpoint: Path) -> Path | None:
    """Return the folder of the best adapter that a checkpoint carries; None before the first evaluation."""
    folder = checkpoint / _IN_CHECKPOINT
    return folder if folder.is_dir() else None


def save_adapter(model: Any, folder: Path) -> None:
    """Write a PEFT model's adapter: its configuration and its weights, nothing of the base.

    On several ranks all have to call it: each may hold a part. Rank 0 writes.
    """
    state = {name: _whole(value) for name, value in model.named_parameters() if value.requires_grad}
    if rank() == 0:
        # Without the flag PEFT looks the base up on the hub, to see whether its embeddings have grown.
        model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)


def _whole(parameter: Any) -> Any:
    # PyTorch's DTensor, of which this rank holds a part.
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach()

"""A Trainer for rows that are tokens already: a repeatable order and an honest validation loss."""

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from narrowcast_trainer.batches import LengthGrouped
from narrowcast_trainer.data import IGNORED
from narrowcast_trainer.engines.best import save_adapter


class OrderedTrainer(Trainer):
    """Takes rows in the order that ``order`` gives for each epoch, and counts what it does."""

    def __init__(self, *args: Any, order: LengthGrouped, **kwargs: Any) -> None:
        self.order = order
        super().__init__(*args, **kwargs)
        self.trained_tokens = 0
        """Tokens put through the model in this attempt, on all ranks, padding left out."""
        self._step_tokens = torch.zeros((), dtype=torch.long, device=self.args.device)
        self._validation_loss = torch.zeros((), dtype=torch.double, device=self.args.device)
        self._validation_labels = torch.zeros((), dtype=torch.long, device=self.args.device)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self.order

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss, in nats a label."""
        training, labels, mask = bool(model.training), inputs["labels"], inputs["attention_mask"]
        # By name: unsloth, which looks for it there, says otherwise that it could not be counted.
        result: Any = super().compute_loss(
            model, inputs, return_outputs, num_items_in_batch=num_items_in_batch
        )
        labelled = labels[:, 1:] != IGNORED
        if training:
            self._step_tokens += (mask * labelled.any(1, keepdim=True)).sum()  # a filler has no label
        else:
            loss = (result[0] if return_outputs else result).detach().double()
            count = labelled.sum()
            # Of several ranks each divides its sum by the labels of all, and takes the quotient times
            # their number: gradients are averaged over ranks.
            self._validation_loss += loss * (
                count if num_items_in_batch is None else num_items_in_batch / self.accelerator.num_processes
            )
            self._validation_labels += count
        return result

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Train on a micro-batch; with the last one of a step, count the step's tokens."""
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            self.trained_tokens += int(self.accelerator.reduce(self._step_tokens))
            self._step_tokens.zero_()
        return loss

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a checkpoint's adapter, by way of the host's memory."""
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        # Trainer lets PEFT load all of it to "cuda": every rank to the first GPU, in float32, where the
        # memory stays reserved. A training that fitted might not once it was paused.
        adapted: Any = self.model
        adapted.load_adapter(resume_from_checkpoint, "default", is_trainable=True, torch_device="cpu")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a checkpoint's adapter; of a sharded one, the whole of it, from all ranks' parts."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        # PEFT looks for shared storage, which a part of a tensor has none of: it would fail there.
        save_adapter(self.model, Path(output_dir or str(self.args.output_dir)))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; the validation loss as a mean over labels, where Trainer's is one over batches."""
        if "eval_loss" in logs:
            total = self.accelerator.reduce(self._validation_loss)
            logs["eval_loss"] = float(total / self.accelerator.reduce(self._validation_labels))
            self._validation_loss.zero_()
            self._validation_labels.zero_()
        super().log(logs, start_time)

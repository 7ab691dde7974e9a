"""TRL's SFTTrainer for rows that are tokens already, with a cheap loss and a repeatable order."""

from typing import Any

import torch
from torch.nn import functional
from trl.trainer.sft_trainer import SFTTrainer

from narrowcast_trainer.batches import LengthGrouped
from narrowcast_trainer.data import IGNORED


class CompletionTrainer(SFTTrainer):
    """Loss on the labels only, in the order that ``order`` gives for each epoch."""

    def __init__(self, *args: Any, order: LengthGrouped, **kwargs: Any) -> None:
        self._order = order
        super().__init__(*args, **kwargs)
        self.trained_tokens = torch.zeros((), dtype=torch.long, device=self.args.device)
        """Tokens put through the model by this process, padding left out."""
        self._validation_loss = torch.zeros((), dtype=torch.double)
        self._validation_labels = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._order

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss, in nats a label.

        On CUDA this is TRL's, whose kernel touches labelled positions only. Its fallback for a
        CPU puts every position through the output layer, three times and the last in float32,
        which for a small base is most of the step; here the prompt's are left out.
        """
        training = bool(model.training)
        if training:
            self.trained_tokens += inputs["attention_mask"].sum()
        if inputs["input_ids"].device.type != "cpu":
            return super().compute_loss(  # type: ignore[no-untyped-call]
                model, inputs, return_outputs, num_items_in_batch
            )
        total, count = _summed_loss(model, inputs)
        if not training:
            self._validation_loss += total.detach().double()
            self._validation_labels += count
        return total / (count if num_items_in_batch is None else num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; the validation loss as a mean over labels, where Trainer's is one over batches."""
        if "eval_loss" in logs and self._validation_labels:
            logs["eval_loss"] = float(self._validation_loss) / self._validation_labels
            self._validation_loss.zero_()
            self._validation_labels = 0
        super().log(logs, start_time)


def _summed_loss(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, int]:
    labels = inputs["labels"][:, 1:]
    columns = (labels != IGNORED).any(0).nonzero().flatten()
    first, last = int(columns[0]), int(columns[-1]) + 1
    labels = labels[:, first:last]
    logits = model(
        input_ids=inputs["input_ids"],
        # With nothing padded the causal mask is all there is, and attention has a faster path.
        attention_mask=None if bool(inputs["attention_mask"].all()) else inputs["attention_mask"],
        use_cache=False,
        logits_to_keep=torch.arange(first, last),
    ).logits
    labelled = labels != IGNORED
    total = functional.cross_entropy(logits[labelled].float(), labels[labelled], reduction="sum")
    return total, int(labelled.sum())

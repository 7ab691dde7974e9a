"""TRL's SFTTrainer with a cheap loss on a CPU.

Nothing is packed: without FlashAttention the rows of a pack see one another. Rows of similar length
go together instead, padded, with a mask (:mod:`narrowcast_trainer.batches`).
"""

from typing import Any

import torch
from torch.nn import functional
from trl.trainer.sft_trainer import SFTTrainer

from narrowcast_trainer.data import IGNORED
from narrowcast_trainer.engines.ordered import OrderedTrainer


class _CheapOnCpu(SFTTrainer):
    """On CUDA TRL's loss, whose kernel touches labelled positions only.

    Its fallback for a CPU puts every position through the output layer, three times and the last
    in float32, which for a small base is most of the step; here the prompt's are left out.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if inputs["input_ids"].device.type != "cpu":
            return super().compute_loss(  # type: ignore[no-untyped-call]
                model, inputs, return_outputs, num_items_in_batch
            )
        total, count = _summed_loss(model, inputs)
        if num_items_in_batch is None:
            return total / max(count, 1)
        # Those of all ranks, over which the gradients will be averaged.
        return total / num_items_in_batch * self.accelerator.num_processes


class CompletionTrainer(OrderedTrainer, _CheapOnCpu):
    """TRL's trainer, for the peft engine."""


def _summed_loss(model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, int]:
    labels = inputs["labels"][:, 1:]
    columns = (labels != IGNORED).any(0).nonzero().flatten()
    # Nothing but fillers: the model is called all the same, as the other ranks call it.
    first, last = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (0, 1)
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

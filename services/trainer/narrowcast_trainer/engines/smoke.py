"""Whether an adapter works, before anyone can ask for it: loaded anew, on the base, on a few rows."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open

from narrowcast.adapters import ADAPTER_WEIGHTS
from narrowcast.errors import JobFailed
from narrowcast.estimates.shapes import Parallelism
from narrowcast.training import QuantizationName
from narrowcast_trainer.data import IGNORED, Example
from narrowcast_trainer.engines import precision as numbers
from narrowcast_trainer.engines.base import TrainingTask
from narrowcast_trainer.engines.divergence import WORSE_BY_NATS, diverged
from narrowcast_trainer.engines.models import load_base, this_gpu
from narrowcast_trainer.engines.precision import Precision, quantization

_ROWS = 5
_TOKENS = 512
"""Of each row, from its beginning: enough to reach the answer of most."""
_LEAST_DIFFERENCE = 1e-3
"""In logits. Less changes no probability by a thousandth: an adapter that does so little is none."""


@dataclass(frozen=True)
class SmokeTest:
    """One adapter to try out; goes through a process pool."""

    base: Path
    adapter: Path
    quantization: QuantizationName
    rows: tuple[Example, ...]
    learning_rate: float
    """That it was trained with, for whom it is to tell."""
    parallelism: Parallelism = "ddp"
    """``fsdp``: the base is laid over all GPUs, because one may not hold it."""

    @classmethod
    def of(cls, task: TrainingTask, adapter: Path) -> "SmokeTest":
        """Return the test of what a task has trained, on rows that it was not trained on if there are any."""
        examples = (task.validation or task.train)[:_ROWS]
        rows = tuple(Example(row.input_ids[:_TOKENS], row.labels[:_TOKENS]) for row in examples)
        hyper, settings = task.hyperparameters, task.settings
        rate = hyper.learning_rate * hyper.learning_rate_multiplier
        return cls(task.base, adapter, hyper.quantization, rows, rate, settings.parallelism)

    def run(self) -> str | None:
        """Load base and adapter with plain PEFT and compare what they say to what the base says alone.

        Returns:
            What its user should know of an adapter that works.

        Raises:
            JobFailed: ``smoke_test_failed``; or ``training_diverged``: the answers of these rows have become
                less likely than they were before the training. Where the loss was thrown about from the
                first step on, what was reported of it does not show that.
        """
        node = numbers.capability()
        stored = quantization(self.quantization, node, self.parallelism)
        spread = self.parallelism == "fsdp" and node.cuda is not None
        base = load_base(self.base, Precision.of(node), stored, "auto" if spread else this_gpu())
        with safe_open(self.adapter / ADAPTER_WEIGHTS, framework="pt") as file:
            saved = set(file.keys())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of keys that are missing; judged here, both ways
                model = PeftModel.from_pretrained(base, str(self.adapter))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise _failed("it does not load onto its base") from error
        if saved != set(get_peft_model_state_dict(model)):
            raise _failed("its weights are not those that its base asks for")
        model.eval()
        compared = [_compared(model, row) for row in self.rows]
        if max(row.difference for row in compared) < _LEAST_DIFFERENCE:
            raise _failed("with it the base says what it says without it")
        labels = sum(row.labels for row in compared)
        if not labels:
            return None  # no answer begins within so many tokens
        before = sum(row.loss_without for row in compared) / labels
        after = sum(row.loss for row in compared) / labels
        losses = f"on {len(compared)} rows the loss is {after:.2f}, and {before:.2f} without the adapter"
        if after > before + WORSE_BY_NATS:
            raise diverged(f"in its first steps: {losses}", self.learning_rate)
        return f"the adapter is no better than its base: {losses}" if after > before else None


@dataclass(frozen=True)
class _Compared:
    """One row, with the adapter and without it."""

    difference: float
    """Of the logits, at most."""
    labels: int
    loss: float
    """In nats, of all labels together."""
    loss_without: float


@torch.inference_mode()
def _compared(model: PeftModel, row: Example) -> _Compared:
    ids = torch.tensor([row.input_ids], device=model.device)
    labels = torch.tensor(row.labels, device=model.device)[1:]

    def logits() -> torch.Tensor:
        answer: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
        return answer

    def loss(said: torch.Tensor) -> float:
        return float(
            torch.nn.functional.cross_entropy(said[:-1], labels, ignore_index=IGNORED, reduction="sum")
        )

    changed = logits()
    if not bool(changed.isfinite().all()):
        raise _failed("its output is not a number")
    with model.disable_adapter():
        plain = logits()
    return _Compared(
        difference=float((changed - plain).abs().max()),
        labels=int((labels != IGNORED).sum()),
        loss=loss(changed),
        loss_without=loss(plain),
    )


def _failed(why: str) -> JobFailed:
    return JobFailed(
        f"the trained adapter failed its smoke test and was not published: {why}", code="smoke_test_failed"
    )

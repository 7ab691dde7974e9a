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
from narrowcast_trainer.engines import precision as numbers
from narrowcast_trainer.engines.base import TrainingTask
from narrowcast_trainer.engines.models import load_base, this_gpu
from narrowcast_trainer.engines.precision import Precision, quantization

_ROWS = 3
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
    rows: tuple[tuple[int, ...], ...]
    """Token ids."""
    parallelism: Parallelism = "ddp"
    """``fsdp``: the base is laid over all GPUs, because one may not hold it."""

    @classmethod
    def of(cls, task: TrainingTask, adapter: Path) -> "SmokeTest":
        """Return the test of what a task has trained, on rows that it was not trained on if there are any."""
        examples = (task.validation or task.train)[:_ROWS]
        rows = tuple(tuple(example.input_ids[:_TOKENS]) for example in examples)
        hyper, settings = task.hyperparameters, task.settings
        return cls(task.base, adapter, hyper.quantization, rows, settings.parallelism)

    def run(self) -> None:
        """Load base and adapter with plain PEFT and compare what they say to what the base says alone.

        Raises:
            JobFailed: ``smoke_test_failed``.
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
        if max(self._difference(model, row) for row in self.rows) < _LEAST_DIFFERENCE:
            raise _failed("with it the base says what it says without it")

    @staticmethod
    @torch.inference_mode()
    def _difference(model: PeftModel, row: tuple[int, ...]) -> float:
        ids = torch.tensor([row], device=model.device)
        changed = model(input_ids=ids, use_cache=False).logits.float()
        if not bool(changed.isfinite().all()):
            raise _failed("its output is not a number")
        with model.disable_adapter():
            plain = model(input_ids=ids, use_cache=False).logits.float()
        return float((changed - plain).abs().max())


def _failed(why: str) -> JobFailed:
    return JobFailed(
        f"the trained adapter failed its smoke test and was not published: {why}", code="smoke_test_failed"
    )

"""The defaults are the paper's recipe, as it comes out on the paper's base; nothing is loaded for it."""

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from narrowcast.adapters import check_servable
from narrowcast.estimates.duration import steps
from narrowcast.training import LINEAR_KINDS, Hyperparameters
from narrowcast_trainer.data import Example
from narrowcast_trainer.engines.base import TrainingTask
from narrowcast_trainer.engines.loop import common_arguments
from narrowcast_trainer.engines.models import lora_config
from narrowcast_trainer.engines.precision import Precision
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.settings import TrainingSettings
from narrowcast_trainer.stop import StopSignal

ROWS = 936
TRAINABLE = 167_772_160
STEPS = 351


@pytest.fixture(scope="module")
def llama() -> Any:
    """Llama-3.1-8B's shape, without its weights."""
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("modules", ["all-linear", LINEAR_KINDS])
def test_the_paper_s_adapter_has_the_paper_s_size(llama: Any, modules: Any) -> None:
    hyper = Hyperparameters(target_modules=modules)
    assert (hyper.rank, hyper.alpha, hyper.dropout) == (64, 64, 0.0)
    config = lora_config(hyper)
    check_servable(config.to_dict(), 64)
    with torch.device("meta"):
        model = get_peft_model(llama, config)
    try:
        assert model.num_parameters(only_trainable=True) == TRAINABLE
        trained = {
            name.split(".lora_")[0].rpartition(".")[2]
            for name, p in model.named_parameters()
            if p.requires_grad
        }
        assert trained == set(LINEAR_KINDS)
    finally:
        model.unload()


@pytest.mark.parametrize(("cuda", "optimizer"), [(True, "adamw_8bit"), (False, "adamw_torch_fused")])
def test_the_trainer_is_told_the_recipe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: bool, optimizer: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)

    hyper = Hyperparameters(scheduler="cosine", learning_rate_multiplier=0.5)
    arguments = _arguments(tmp_path, hyper, train=[100] * ROWS)
    assert arguments["optim"] == optimizer
    assert arguments["num_train_epochs"] == 3
    assert arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] == 8
    assert arguments["learning_rate"] == 1e-4
    assert arguments["lr_scheduler_type"] == "cosine"
    assert (arguments["fp16"], arguments["bf16"]) == (True, False)
    assert arguments["logging_nan_inf_filter"] is False
    assert arguments["eval_strategy"] == "no"
    assert arguments["warmup_steps"] == math.ceil(0.03 * STEPS)


class Begun(Exception):
    """All is set up; the first step would be next."""

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps


class UntilTheFirstStep(Reporter):
    def note(self, message: str, *, warn: bool = False, **data: Any) -> None:
        if "total_steps" in data:
            raise Begun(data["total_steps"])


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 8])
def test_the_trainer_takes_the_paper_s_number_of_steps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, micro_batch: int
) -> None:
    """The engine's own Trainer, with its own arguments, says so as it begins; nothing is trained."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from narrowcast_trainer.engines import peft

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[EOS]": 1}, unk_token="[PAD]"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="[EOS]").save_pretrained(tmp_path / "base")
    size = {"vocab_size": 8, "hidden_size": 16, "intermediate_size": 16}
    tiny = LlamaForCausalLM(LlamaConfig(**size, num_hidden_layers=1, num_attention_heads=2))  # type: ignore[no-untyped-call]
    monkeypatch.setattr(peft, "load_base", lambda *_: tiny)
    task = TrainingTask(
        base=tmp_path / "base",
        hyperparameters=Hyperparameters(micro_batch=micro_batch, quantization="none"),
        settings=TrainingSettings(),
        train=[Example([2, 3, 1], [-100, 3, 1])] * ROWS,
        validation=[],
        pad_id=0,
        scratch=tmp_path,
        resume=None,
        reporter=UntilTheFirstStep(os.open(os.devnull, os.O_WRONLY)),
        stop=StopSignal(),
        save_checkpoint=lambda *_: None,
    )
    with pytest.raises(Begun) as begun:
        peft.PeftEngine().train(task)
    assert begun.value.total_steps == STEPS


def test_the_paper_s_number_of_steps_is_what_estimates_and_warm_up_count_with() -> None:
    assert steps(ROWS, 8, 3) == STEPS


@pytest.mark.parametrize(
    ("rows", "epochs", "ratio", "warmup"),
    [(5, 1, 0.03, 0), (9, 1, 0.03, 1), (16, 3, 0.99, 5), (16, 3, 0.0, 0)],
)
def test_the_rate_has_risen_before_the_last_step(
    tmp_path: Path, rows: int, epochs: int, ratio: float, warmup: int
) -> None:
    hyper = Hyperparameters(n_epochs=epochs, warmup_ratio=ratio)
    assert _arguments(tmp_path, hyper, train=[100] * rows)["warmup_steps"] == warmup


@pytest.mark.parametrize(("longest", "at_once"), [(100, 4), (256, 4), (257, 2), (600, 1), (5000, 1)])
def test_long_validation_rows_go_through_in_smaller_batches(
    tmp_path: Path, longest: int, at_once: int
) -> None:
    arguments = _arguments(tmp_path, Hyperparameters(), train=[256] * 8, validation=[50, longest], at_once=4)
    assert arguments["per_device_train_batch_size"] == 4
    assert arguments["per_device_eval_batch_size"] == at_once


def _arguments(
    scratch: Path,
    hyper: Hyperparameters,
    train: list[int],
    validation: list[int] | None = None,
    at_once: int = 2,
) -> dict[str, Any]:
    """Return what the Trainer is told for rows of so many tokens, 1,024 of which may go at once."""

    class Task:
        hyperparameters = hyper
        settings = TrainingSettings(micro_batch_tokens=1024)

    task: Any = Task()
    task.scratch = scratch
    task.train, task.validation = (
        [Example([0] * tokens, [0] * tokens) for tokens in lengths] for lengths in (train, validation or [])
    )
    return common_arguments(task, Precision(torch.float16, torch.float16), at_once)

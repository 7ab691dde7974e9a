"""The peft engine on the toy base: quantised, padded, stopped early, tried out."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from narrowcast.adapters import ADAPTER_WEIGHTS
from narrowcast.errors import JobFailed
from narrowcast.masking import stop_ids
from narrowcast.training import Hyperparameters
from narrowcast_trainer.data import IGNORED, Example, tokenize
from narrowcast_trainer.engines.base import Trained
from narrowcast_trainer.protocol import Measured
from narrowcast_trainer.publish import check_weights
from narrowcast_trainer.settings import TrainingSettings

from .conftest import TOY, rows
from .trainings import HYPER, assert_same_weights, events_of, stopped, train, training_task, weights_of

pytestmark = pytest.mark.filterwarnings("ignore")


def _hyper(**changes: Any) -> Hyperparameters:
    return Hyperparameters.model_validate(HYPER.model_dump() | changes)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_base_is_trained_on(models_dir: Path, tmp_path: Path, quantization: str) -> None:
    import torch

    from narrowcast_trainer.engines.peft import PeftEngine

    hyper = _hyper(quantization=quantization, n_epochs=3, target_modules=["q_proj", "v_proj", "down_proj"])
    task = training_task(models_dir, tmp_path, hyperparameters=hyper)
    trained = PeftEngine().train(task)
    measured = [event.metrics for event in events_of(tmp_path, Measured)]
    losses = [metrics.train_loss for metrics in measured if metrics.train_loss]
    assert losses[-1] < losses[0] - 0.05
    weights = weights_of(trained.adapter)
    assert {name.split(".")[-3] for name in weights} == {"q_proj", "v_proj", "down_proj"}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    PeftEngine().smoke_test(task, trained.adapter)


def test_the_base_of_nf4_is_stored_in_four_bits(models_dir: Path) -> None:
    import torch

    from narrowcast_trainer.engines.models import load_base, with_adapter
    from narrowcast_trainer.engines.precision import Capability, Precision

    precision = Precision.of(Capability(None, cpu_bf16=True))
    base = load_base(models_dir / TOY, precision, "nf4")
    model = with_adapter(base, HYPER)
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    stored = layer.base_layer.weight
    assert (stored.dtype, stored.quant_state.quant_type) == (torch.uint8, "nf4")
    assert stored.quant_state.nested
    assert layer.base_layer.compute_dtype == torch.bfloat16
    assert layer.lora_A.default.weight.dtype == torch.float32


def test_a_validation_does_not_change_the_gradients_of_nf4(models_dir: Path) -> None:
    """On a CPU with AVX-512 BF16, bitsandbytes of itself makes them wrong."""
    import torch

    from narrowcast_trainer.engines.models import load_base, with_adapter
    from narrowcast_trainer.engines.precision import Capability, Precision

    precision = Precision.of(Capability(None, cpu_bf16=True))
    model = with_adapter(load_base(models_dir / TOY, precision, "nf4"), _hyper(dropout=0.0))
    rows = torch.arange(24).reshape(2, 12) + 5

    def gradient() -> Any:
        model.train()
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=rows, labels=rows).loss.backward()
        return model.base_model.model.model.layers[0].self_attn.q_proj.lora_B.default.weight.grad.clone()

    before = gradient()
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(input_ids=rows)
    assert torch.equal(gradient(), before)


def test_a_training_of_one_step_trains(models_dir: Path, tmp_path: Path) -> None:
    """It is not all warm-up, in which the first step's rate is 0."""
    from narrowcast_trainer.engines.peft import PeftEngine

    task = training_task(models_dir, tmp_path, hyperparameters=_hyper(batch_size=16, n_epochs=1))
    trained = PeftEngine().train(task)
    assert trained.metrics["steps"] == 1
    PeftEngine().smoke_test(task, trained.adapter)


def test_an_epoch_of_the_warm_up_s_first_step_is_not_the_best(models_dir: Path, tmp_path: Path) -> None:
    """Its rate is 0: where all others make the base worse, an adapter that does nothing would be."""
    from narrowcast_trainer.engines.peft import PeftEngine

    task = training_task(
        models_dir,
        tmp_path,
        hyperparameters=_hyper(batch_size=16, n_epochs=2, learning_rate=0.3, alpha=64),
        train=_examples(14, 0, 200, seed=2),
        validation=_examples(3, 20_000, 40_000, seed=11),
        settings=TrainingSettings(micro_batch_tokens=100_000),
    )
    trained = PeftEngine().train(task)
    first, second = trained.record.points
    assert (first.learning_rate, first.valid_loss) == (0, None)
    assert (second.valid_loss or 0) > 10.82, "the base's is 10.811"
    assert trained.metrics["best_step"] == 2
    check_weights(trained.adapter / ADAPTER_WEIGHTS)
    PeftEngine().smoke_test(task, trained.adapter)
    # Estimates learn from it: no more rows can have been in memory at once than there are.
    assert trained.metrics["micro_batch"] == 14


def test_rows_of_a_batch_do_not_see_one_another(models_dir: Path, tmp_path: Path) -> None:
    """The loss of a padded batch is that of its rows alone, so neither padding nor a neighbour leaks in."""
    import torch
    from transformers import TrainingArguments
    from trl.trainer.sft_config import SFTConfig

    from narrowcast_trainer.engines.callback import JobCallback
    from narrowcast_trainer.engines.completion import CompletionTrainer
    from narrowcast_trainer.engines.loop import build_trainer, common_arguments
    from narrowcast_trainer.engines.models import load_base, with_adapter
    from narrowcast_trainer.engines.ordered import OrderedTrainer
    from narrowcast_trainer.engines.precision import Precision

    precision = Precision(torch.float32, None)
    task = training_task(models_dir, tmp_path, validation=[])
    longest = sorted(task.train, key=lambda row: len(row.input_ids))
    for kind, arguments in ((CompletionTrainer, SFTConfig), (OrderedTrainer, TrainingArguments)):
        model = with_adapter(load_base(task.base, precision, "none"), _hyper(dropout=0.0))
        own = {"dataset_kwargs": {"skip_prepare_dataset": True}} if arguments is SFTConfig else {}
        trainer: Any = build_trainer(
            task, model, kind, arguments(**common_arguments(task, precision, 2), **own), JobCallback(task)
        )
        model.eval()

        def losses(*examples: Any, trainer: Any = trainer, model: Any = model) -> list[float]:
            batch = trainer.data_collator(
                [
                    {
                        "input_ids": one.input_ids,
                        "attention_mask": [1] * len(one.input_ids),
                        "labels": one.labels,
                    }
                    for one in examples
                ]
            )
            count = int((batch["labels"][:, 1:] != -100).sum())
            with torch.no_grad():
                return [float(trainer.compute_loss(model, batch)), count]

        (short, short_count), (long, long_count) = losses(longest[0]), losses(longest[-1])
        together, count = losses(longest[0], longest[-1])
        assert len(longest[0].input_ids) < len(longest[-1].input_ids)
        assert count == short_count + long_count
        assert together == pytest.approx((short * short_count + long * long_count) / count, abs=1e-5)


def _examples(count: int, first: int, end: int, seed: int = 0) -> list[Example]:
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        ids = [draw.randrange(first, end) for _ in range(draw.randrange(20, 60))]
        made.append(Example(ids, [IGNORED] * 10 + ids[10:]))
    return made


# The validation loss rises soon: none of its tokens is in the training rows.
EARLY: dict[str, Any] = {
    "hyperparameters": _hyper(n_epochs=6, learning_rate=0.1, early_stopping_patience=2),
    "train": _examples(14, 0, 200),
    "validation": _examples(3, 20_000, 40_000),
}


def _valid_losses(folder: Path) -> list[tuple[int, float]]:
    measured = [event.metrics for event in events_of(folder, Measured)]
    return [(one.step, one.valid_loss) for one in measured if one.valid_loss is not None]


@pytest.fixture(scope="module")
def stopped_early(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    folder = tmp_path_factory.mktemp("early")
    return train(models_dir, folder, **EARLY), folder


def test_patience_ends_a_training_and_its_best_weights_are_kept(
    stopped_early: tuple[Trained, Path], models_dir: Path, tmp_path: Path
) -> None:
    trained, folder = stopped_early
    losses = _valid_losses(folder)
    best = min(losses, key=lambda one: one[1])
    assert losses[-3] == best
    assert len(losses) < EARLY["hyperparameters"].n_epochs
    assert trained.metrics["steps"] == losses[-1][0] == best[0] + 8
    assert (trained.metrics["best_step"], trained.metrics["valid_loss"]) == best
    assert "stopped early" in (folder / "events").read_text()

    # What is kept is what a run that ended there has.
    assert_same_weights(trained.adapter, stopped(best[0], models_dir, tmp_path, **EARLY).folder)


def test_zero_patience_never_stops(models_dir: Path, tmp_path: Path) -> None:
    patient = EARLY["hyperparameters"].model_copy(update={"early_stopping_patience": 0})
    trained = train(models_dir, tmp_path, **EARLY | {"hyperparameters": patient})
    assert trained.metrics["steps"] == 24
    assert "stopped early" not in (tmp_path / "events").read_text()


@pytest.mark.parametrize("at", [5, 8])
def test_resumed_it_stops_at_the_same_step_with_the_same_weights(
    stopped_early: tuple[Trained, Path], models_dir: Path, tmp_path: Path, at: int
) -> None:
    """Stopped within an epoch, and at the end of one, where a validation is due."""
    whole, folder = stopped_early
    checkpoint = stopped(at, models_dir, tmp_path / "first", **EARLY)
    resumed = train(models_dir, tmp_path / "rest", resume=checkpoint, **EARLY)
    for name in ("steps", "best_step", "valid_loss", "train_loss"):
        assert resumed.metrics[name] == whole.metrics[name]
    assert _valid_losses(tmp_path / "first") + _valid_losses(tmp_path / "rest") == _valid_losses(folder)
    assert_same_weights(whole.adapter, resumed.adapter)


@pytest.fixture(scope="module")
def good(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    from narrowcast_trainer.engines.peft import PeftEngine

    folder = tmp_path_factory.mktemp("good")
    task = training_task(models_dir, folder, validation=[])
    return task, PeftEngine().train(task).adapter


def _spoiled(adapter: Path, folder: Path, change: Any) -> Path:
    from safetensors.torch import save_file

    shutil.copytree(adapter, folder)
    weights = weights_of(adapter)
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def test_the_smoke_test_passes_what_works(good: tuple[Any, Path]) -> None:
    from narrowcast_trainer.engines.peft import PeftEngine

    PeftEngine().smoke_test(*good)


def _zero(weights: dict[str, Any]) -> None:
    for name in weights:
        weights[name] = weights[name] * (1e-6 if ".lora_B." in name else 1)


def _nan(weights: dict[str, Any]) -> None:
    name = next(name for name in weights if ".lora_B." in name)
    weights[name] = weights[name] * float("nan")


def _incomplete(weights: dict[str, Any]) -> None:
    del weights[next(iter(weights))]


def _misfit(weights: dict[str, Any]) -> None:
    name = next(iter(weights))
    weights[name] = weights[name][:, :-1].contiguous()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_zero, "says what it says without it"),
        (_nan, "not a number"),
        (_incomplete, "not those that its base asks for"),
        (_misfit, "does not load"),
    ],
)
def test_the_smoke_test_fails_what_does_not(
    good: tuple[Any, Path], tmp_path: Path, change: Any, reason: str
) -> None:
    from narrowcast_trainer.engines.peft import PeftEngine

    task, adapter = good
    with pytest.raises(JobFailed, match=reason) as failed:
        PeftEngine().smoke_test(task, _spoiled(adapter, tmp_path / "spoiled", change))
    assert failed.value.code == "smoke_test_failed"


def test_an_adapter_that_is_worse_than_its_base_is_not_published(base_model: Path, tmp_path: Path) -> None:
    """Of the real base: what the toy says is bounded, so that hardly anything makes it worse."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from narrowcast_trainer.engines.best import save_adapter
    from narrowcast_trainer.engines.smoke import SmokeTest

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    examples = tokenize(rows(2), tokenizer, split="train", max_length=512, stop_ids=stop_ids(tokenizer, None))
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["down_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base_model), lora)

    def smoke_test(scale: float) -> str | None:
        adapter = tmp_path / str(scale)
        with torch.no_grad():
            for name, weights in model.named_parameters():
                weights *= scale if ".lora_B." in name else 1
        save_adapter(model, adapter)
        return SmokeTest(base_model, adapter, "none", tuple(examples), learning_rate=1e-2).run()

    assert "no better than its base: on 2 rows the loss is" in (smoke_test(2) or "")
    with pytest.raises(JobFailed, match="without the adapter; lower learning_rate") as failed:
        smoke_test(5)
    assert failed.value.code == "training_diverged"

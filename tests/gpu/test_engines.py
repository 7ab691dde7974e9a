"""Both engines on CUDA: every quantisation, resumption, memory, and that they agree."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from narrowcast.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, check_servable
from narrowcast.training import LINEAR_KINDS
from narrowcast_trainer.publish import check_weights

from .conftest import Run


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_an_adapter_that_works_and_can_be_served(run: Run, engine: str, quantization: str) -> None:
    """``run`` includes the smoke test: plain PEFT loads the adapter, and it changes what the base says."""
    done = run(engine, hyper={"quantization": quantization})
    assert "failed" not in done, done
    adapter = Path(done["adapter"])
    config = json.loads((adapter / ADAPTER_CONFIG).read_text())
    check_servable(config, 16)
    check_weights(adapter / ADAPTER_WEIGHTS)
    assert isinstance(config["target_modules"], list)
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == set(LINEAR_KINDS)
    metrics = done["metrics"]
    assert metrics["steps"] == 16
    assert metrics["train_loss"] < done["losses"][0]
    assert metrics["peak_memory_bytes"] > 0
    assert max(done["gpu_memory"]) == pytest.approx(metrics["peak_memory_bytes"], rel=0.05)
    assert metrics["tokens_per_s"] > 0


def test_auto_is_the_fastest_that_is_there(run: Run) -> None:
    assert run("auto")["engine"] == ("unsloth" if find_spec("unsloth") else "peft")


def test_the_engines_agree_on_the_loss_of_the_untrained_base(run: Run) -> None:
    """LoRA's B starts at zero, so the first step's loss is the base's: same rows, labels and mean."""
    if find_spec("unsloth") is None:
        pytest.skip("unsloth is not installed")
    hyper = {"quantization": "none", "warmup_ratio": 0.5}
    one, other = (run(name, name, hyper=hyper) for name in ("peft", "unsloth"))
    assert one["losses"][0] == pytest.approx(other["losses"][0], rel=0.02)
    assert one["metrics"]["valid_loss"] == pytest.approx(other["metrics"]["valid_loss"], rel=0.1)
    assert one["metrics"]["trainable_parameters"] == other["metrics"]["trainable_parameters"]


@pytest.mark.parametrize("at", [3, 8, 11])
def test_stopped_and_resumed_ends_where_the_whole_run_does(run: Run, engine: str, at: int) -> None:
    """Within an epoch, at its end, within the next. Not to the bit: a GPU's kernels add up in any order."""
    whole = run(engine, "whole")
    first = run(engine, "first", stop_at=at)
    assert first.get("stopped") == at, first
    rest = run(engine, "rest", resume=first["checkpoint"], step=at)
    assert "failed" not in rest, rest
    assert rest["metrics"]["steps"] == whole["metrics"]["steps"]
    for name in ("train_loss", "valid_loss"):
        assert rest["metrics"][name] == pytest.approx(whole["metrics"][name], rel=0.05)


@pytest.mark.parametrize(("name", "parallelism"), [("unsloth", "ddp"), ("peft", "ddp"), ("peft", "fsdp")])
def test_two_ranks_train_as_one(run: Run, name: str, parallelism: str) -> None:
    """Over NCCL; on two GPUs where there are two."""
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    hyper = {"quantization": "none"}
    one = run(name, "one", hyper=hyper)
    two = run(name, "two", hyper=hyper, ranks=2, parallelism=parallelism)
    assert "failed" not in two, two
    assert two["metrics"]["steps"] == one["metrics"]["steps"]
    assert two["losses"] == pytest.approx(one["losses"], rel=0.05)


def test_too_little_memory_is_told_apart(run: Run, engine: str) -> None:
    # The base has 0.3 GB; an estimate of the step, with the loss compiled, 1.4 GB for unsloth.
    done = run(engine, rows=256, tokens=1_000_000, hyper={"batch_size": 256}, memory_bytes=6e8)
    assert done["failed"] == "out_of_memory", done


def test_a_rate_that_is_far_too_high_is_stopped(run: Run, engine: str) -> None:
    hyper: dict[str, Any] = {"learning_rate": 0.9, "learning_rate_multiplier": 100.0, "n_epochs": 20}
    done = run(engine, hyper=hyper)
    assert done["failed"] == "training_diverged", done
    assert "learning_rate" in done["message"]

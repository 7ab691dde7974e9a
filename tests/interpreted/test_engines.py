"""unsloth's and TRL's CUDA code, of the very versions in the image, gives what plain PEFT gives on a CPU."""

import json
from pathlib import Path
from typing import Any

import pytest

from narrowcast.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from narrowcast.training import LINEAR_KINDS

from .conftest import AMPERE, TURING, Run

_RANK = 64
"""From which on the small bases' tensors are large enough for 8-bit moments."""


def _order(**hyper: Any) -> dict[str, Any]:
    return {"rows": 8, "hyper": {"rank": _RANK} | hyper}


def _same(one: dict[str, Any], other: dict[str, Any], rel: float) -> None:
    assert one["metrics"]["steps"] == other["metrics"]["steps"]
    assert one["metrics"]["trainable_parameters"] == other["metrics"]["trainable_parameters"]
    for name in ("train_loss", "valid_loss"):
        assert one["metrics"][name] == pytest.approx(other["metrics"][name], rel=rel), name


def _same_to_the_bit(one: dict[str, Any], other: dict[str, Any]) -> None:
    import torch
    from safetensors.torch import load_file

    _same(one, other, 0)
    got, expected = (load_file(Path(answer["adapter"]) / ADAPTER_WEIGHTS) for answer in (one, other))
    assert got.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(got[name], expected[name])] == []


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_unsloth_trains_as_peft_does(run: Run, quantization: str) -> None:
    """Rows, labels, order, the mean over labels, the fused LoRA kernels and loss, two micro-batches a step."""
    order = _order(quantization=quantization) | {"tokens": 56}
    (unsloth,) = run("unsloth", AMPERE, "unsloth", **order)
    (peft,) = run("peft", None, "peft", **order)
    assert unsloth["engine"] == "unsloth"
    assert unsloth["metrics"]["micro_batch"] == 2
    config = json.loads((Path(unsloth["adapter"]) / ADAPTER_CONFIG).read_text())
    assert set(config["target_modules"]) == set(LINEAR_KINDS)
    _same(unsloth, peft, 1e-3)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "mistral"])
def test_unsloth_knows_the_bases_that_we_name(run: Run, architecture: str) -> None:
    order = _order(quantization="nf4", n_epochs=1) | {"architecture": architecture}
    (unsloth,) = run("unsloth", AMPERE, "unsloth", **order)
    (peft,) = run("peft", None, "peft", **order)
    _same(unsloth, peft, 1e-3)


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_peft_on_cuda_trains_as_on_a_cpu(run: Run, quantization: str) -> None:
    """TRL's loss kernel, recomputed activations, a base in bf16."""
    order = _order(quantization=quantization)
    (cuda,) = run("peft", AMPERE, "cuda", **order)
    (cpu,) = run("peft", None, "cpu", **order)
    _same(cuda, cpu, 1e-3)


@pytest.mark.parametrize("engine", ["unsloth", "peft"])
def test_a_card_without_bf16_trains_in_fp16(run: Run, engine: str) -> None:
    """With a gradient scaler; the paper's 16 GB card is one."""
    order = _order(quantization="nf4")
    (fp16,) = run(engine, TURING, "fp16", **order)
    (peft,) = run("peft", None, "peft", **order)
    _same(fp16, peft, 1e-3)


@pytest.mark.parametrize("engine", ["unsloth", "peft"])
def test_stopped_and_resumed_is_as_never_stopped(run: Run, engine: str) -> None:
    """To the bit, in the second epoch, 8-bit moments and all; unsloth has a training loop of its own."""
    order = _order(quantization="nf4")
    (whole,) = run(engine, AMPERE, "whole", **order)
    (first,) = run(engine, AMPERE, "first", stop_at=3, **order)
    assert first["stopped"] == 3
    (rest,) = run(engine, AMPERE, "rest", resume=first["checkpoint"], step=3, **order)
    _same_to_the_bit(rest, whole)


@pytest.mark.parametrize("engine", ["unsloth", "peft"])
def test_a_sweep_trains_twice_in_one_process(run: Run, engine: str) -> None:
    one, other = run(engine, AMPERE, times=2, **_order(quantization="nf4"))
    _same_to_the_bit(one, other)
    assert one["left_bytes"] == other["left_bytes"] == 0


def test_two_ranks_train_as_one(run: Run) -> None:
    order = _order(quantization="nf4") | {"tokens": 56}
    (one,) = run("unsloth", AMPERE, "one", **order)
    (two,) = run("unsloth", AMPERE, "two", ranks=2, **order)
    _same(two, one, 1e-6)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-6)


def test_ranks_that_do_not_join_are_refused(run: Run) -> None:
    """Seeing one GPU when it is imported, unsloth keeps accelerate from joining ranks."""
    (alone,) = run("unsloth", AMPERE, ranks=2, gpus=1, **_order(quantization="nf4"))
    assert alone["failed"] == "ranks_apart", alone


def test_a_base_that_was_not_quantised_is_refused(run: Run) -> None:
    """Unsloth would go on in 16 bits where bitsandbytes' native library does not load."""
    (done,) = run("unsloth", AMPERE, bitsandbytes_loads=False, **_order(quantization="nf4"))
    assert done["failed"] == "quantization_unavailable", done

"""Precision and quantisation follow the hardware, which is asked in one place."""

import logging
import sys

import pytest
import torch

from narrowcast.errors import JobFailed
from narrowcast_trainer.engines import engine_name
from narrowcast_trainer.engines import precision as numbers
from narrowcast_trainer.engines.precision import Capability, Precision, bitsandbytes_config, quantization

TURING, AMPERE, HOPPER = Capability((7, 5), True), Capability((8, 0), True), Capability((9, 0), False)
CPU, CPU_WITH_BF16 = Capability(None, False), Capability(None, True)


@pytest.mark.parametrize(
    ("node", "base", "autocast", "default"),
    [
        (TURING, torch.float16, torch.float16, "nf4"),
        (AMPERE, torch.bfloat16, torch.bfloat16, "nf4"),
        (HOPPER, torch.bfloat16, torch.bfloat16, "nf4"),
        (CPU, torch.float32, None, "none"),
        (CPU_WITH_BF16, torch.float32, torch.bfloat16, "none"),
    ],
)
def test_what_each_node_computes_in(
    node: Capability, base: torch.dtype, autocast: torch.dtype | None, default: str
) -> None:
    precision = Precision.of(node)
    assert (precision.base, precision.autocast) == (base, autocast)
    assert quantization("auto", node) == default
    nf4 = bitsandbytes_config("nf4", precision)
    assert (nf4.load_in_4bit, nf4.bnb_4bit_quant_type, nf4.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert nf4.bnb_4bit_compute_dtype == (autocast or torch.float32)
    assert bitsandbytes_config("int8", precision).load_in_8bit
    assert bitsandbytes_config("none", precision) is None


@pytest.mark.parametrize("asked", ["nf4", "int8", "none"])
@pytest.mark.parametrize("node", [CPU, AMPERE])
def test_what_a_job_names_is_what_it_gets(asked: numbers.Quantization, node: Capability) -> None:
    assert quantization(asked, node) == asked


def test_the_hardware_is_asked_for_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for flags, expected in (({}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flags=flags: flags)
        assert numbers.capability() == Capability(None, expected)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert numbers.capability().cuda == (7, 5)


def test_a_node_without_bitsandbytes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(JobFailed) as refused:
        quantization("nf4", CPU)
    assert (refused.value.code, refused.value.param) == ("quantization_unavailable", "quantization")
    assert quantization("auto", CPU) == "none"


@pytest.mark.parametrize(
    ("installed", "cuda", "chosen"), [(False, True, None), (True, False, None), (True, True, "unsloth")]
)
def test_unsloth_is_chosen_where_it_can_run(
    monkeypatch: pytest.MonkeyPatch, installed: bool, cuda: bool, chosen: str | None
) -> None:
    monkeypatch.setattr("narrowcast_trainer.engines.find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert engine_name("auto") == (chosen or "peft")
    assert engine_name("peft") == "peft"
    assert engine_name("auto", "fsdp") == "peft"
    if chosen is None:
        with pytest.raises(JobFailed) as refused:
            engine_name("unsloth")
        assert refused.value.code == "engine_unavailable"
        assert ("no CUDA device" if installed else "no unsloth installed") in refused.value.message


def test_a_training_in_int8_does_not_warn_of_each_product() -> None:
    from bitsandbytes.autograd._functions import logger

    logger.setLevel(logging.NOTSET)
    quantization("int8", Capability(cuda=(8, 0), cpu_bf16=False))
    assert not logger.isEnabledFor(logging.WARNING)

"""The paper's case, term by term, and what the terms must obey."""

import dataclasses
from typing import Any

import pytest

from narrowcast.errors import InvalidInput
from narrowcast.estimates.architecture import Architecture, Linear, read_architecture
from narrowcast.estimates.estimate import MemoryEstimate, Plan, estimate, estimate_memory
from narrowcast.estimates.history import NodeFacts
from narrowcast.estimates.memory import GIB, memory_terms
from narrowcast.estimates.shapes import Batching, TrainingShape

PAPER = TrainingShape(rank=64, length=2048, micro_batch=2)
BATCHES = Batching((8,), max_length=2048, max_micro_batch=2)
EXACT = ("weights", "quantization_constants", "lora", "gradients", "optimizer")


def _gib(memory: MemoryEstimate, *names: str) -> float:
    return sum(getattr(memory, name).expected for name in names) / GIB


def test_the_papers_case(llama: Architecture, t4: NodeFacts) -> None:
    found = estimate(llama, Plan(PAPER, 936, 3, BATCHES), t4)
    assert found.trainable_parameters == 167_772_160
    assert found.steps == 351
    assert found.memory.total.expected / GIB == pytest.approx(8.84, rel=0.05)
    assert found.memory.total.low < 8.84 * GIB < found.memory.total.high
    assert found.fits == "yes"


def test_its_terms_are_those_that_others_measured(llama: Architecture) -> None:
    memory = estimate_memory(llama, PAPER)
    assert _gib(memory, "weights", "quantization_constants") == pytest.approx(5.31, abs=0.005)
    assert _gib(memory, "lora", "gradients", "optimizer") == pytest.approx(1.57, abs=0.005)
    assert _gib(memory, "activations") == pytest.approx(1.3, abs=0.1)


def test_after_loading_no_more_is_counted_than_was_reserved(llama: Architecture) -> None:
    # A published log: Llama-3.1-8B, r=16, 5.984 GiB reserved when training begins.
    terms = memory_terms(llama, dataclasses.replace(PAPER, rank=16))
    loaded = sum(terms[name].expected for name in ("weights", "quantization_constants", "lora"))
    assert loaded / GIB == pytest.approx(5.466, abs=0.005)


def test_the_tokens_of_the_papers_reports_give_its_minutes(llama: Architecture, t4: NodeFacts) -> None:
    # 79.08 minutes on a 16 GB card; reports with their prompts are some hundred tokens long.
    found = estimate(llama, Plan(PAPER, 936, 3, BATCHES, tokens_per_row=700), t4)
    assert found.time is not None
    assert found.time.minutes.low < 79.08 < found.time.minutes.high


@pytest.mark.parametrize("engine", ["unsloth", "peft"])
@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_the_whole_is_the_sum_of_its_parts(llama: Architecture, engine: Any, quantization: Any) -> None:
    memory = estimate_memory(llama, dataclasses.replace(PAPER, engine=engine, quantization=quantization))
    for end in ("low", "expected", "high"):
        parts = [*EXACT, "activations", "correction", "allocator"]
        total = sum(getattr(getattr(memory, name), end) for name in parts)
        assert getattr(memory.total, end) == pytest.approx(total)
        assert getattr(memory.required, end) == pytest.approx(total + getattr(memory.context, end))
    assert memory.total.low <= memory.total.expected <= memory.total.high


@pytest.mark.parametrize("engine", ["unsloth", "peft"])
@pytest.mark.parametrize("field", ["rank", "length", "micro_batch"])
def test_more_of_anything_takes_more(llama: Architecture, engine: Any, field: str) -> None:
    shape = dataclasses.replace(PAPER, engine=engine)
    more = dataclasses.replace(shape, **{field: 2 * getattr(shape, field)})
    assert estimate_memory(llama, more).total.expected > estimate_memory(llama, shape).total.expected


def test_an_8_bit_base_has_no_fused_kernels(llama: Architecture) -> None:
    """So its layer takes what PEFT's does, but for the layers' inputs, which unsloth keeps in the host."""
    shape = dataclasses.replace(PAPER, micro_batch=4, quantization="int8")
    nf4 = memory_terms(llama, dataclasses.replace(shape, quantization="nf4"))["activations"]
    unsloth = memory_terms(llama, shape)["activations"]
    peft = memory_terms(llama, dataclasses.replace(shape, engine="peft"))["activations"]
    assert unsloth.low > 2 * nf4.low
    inputs = (llama.layers + 1) * shape.tokens * llama.hidden * 2
    casts = llama.lora_parameters(shape.rank) // llama.layers * 2
    buffers = 2 * shape.tokens * llama.hidden * 2
    assert peft.low - unsloth.low == pytest.approx(inputs + casts - buffers, rel=1e-3)


@pytest.mark.parametrize(("gib", "tokens"), [(12, 21_848), (24, 78_475), (80, 342_733)])
def test_the_longest_published_rows_are_within_the_range(llama: Architecture, gib: int, tokens: int) -> None:
    """Unsloth's own table (docs, December 2024), one row, r=32; cards of nominal size."""
    found = estimate_memory(llama, TrainingShape(rank=32, length=tokens, micro_batch=1)).required
    assert found.low < gib * GIB < found.high * 1.03


def test_engines_and_quantisations_are_in_their_order(llama: Architecture) -> None:
    def total(**changes: Any) -> float:
        return estimate_memory(llama, dataclasses.replace(PAPER, **changes)).total.expected

    assert total() < total(engine="peft")
    assert total() < total(quantization="int8") < total(quantization="none")


@pytest.mark.parametrize("double", [(64, 4096), (96, 160), (1024, 1024)])
def test_nf4_takes_the_bytes_that_bitsandbytes_takes(double: tuple[int, int]) -> None:
    import torch
    from bitsandbytes.functional import quantize_4bit

    outputs, inputs = double
    packed, state = quantize_4bit(
        torch.randn(outputs, inputs), quant_type="nf4", blocksize=64, compress_statistics=True
    )
    tensors = [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    constants = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    architecture = dataclasses.replace(
        read_architecture({"model_type": "llama"} | dict.fromkeys(_SIZES, 1)),
        linears=(Linear("only", inputs, outputs),),
    )
    terms = memory_terms(architecture, TrainingShape(8, 32, 1, "peft"))
    assert terms["quantization_constants"].expected == constants
    assert packed.numel() * packed.element_size() * 2 == architecture.linear_weights


_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)


def test_unsloth_needs_cuda(llama: Architecture) -> None:
    with pytest.raises(InvalidInput) as caught:
        estimate_memory(llama, dataclasses.replace(PAPER, device="cpu"))
    assert caught.value.code == "engine_unavailable"


@pytest.mark.parametrize(
    ("rank", "length", "micro_batch", "measured"),
    [(16, 496, 2, 3_519_528_960), (64, 1186, 1, 4_161_249_280)],
)
def test_a_cpu_s_process_is_as_large_as_was_measured(
    smollm2: Architecture, rank: int, length: int, micro_batch: int, measured: int
) -> None:
    # SmolLM2-135M trained by the peft engine under bf16 autocast; the kernel's count of resident memory.
    shape = TrainingShape(rank, length, micro_batch, "peft", "none", "cpu")
    required = estimate_memory(smollm2, shape).required
    assert required.low < measured < required.high
    assert required.expected == pytest.approx(measured, rel=0.1)


def _shared(ranks: int, parallelism: Any, **changes: Any) -> TrainingShape:
    return dataclasses.replace(PAPER, ranks=ranks, parallelism=parallelism, **changes)


def test_under_ddp_gradients_are_there_twice(llama: Architecture) -> None:
    import inspect

    from torch.nn.parallel import DistributedDataParallel

    assert not inspect.signature(DistributedDataParallel).parameters["gradient_as_bucket_view"].default
    alone, shared = memory_terms(llama, PAPER), memory_terms(llama, _shared(2, "ddp"))
    assert shared.pop("gradients") == alone.pop("gradients") * 2
    assert shared == alone


def test_under_fsdp_each_gpu_has_its_part_and_what_it_computes_with(llama: Architecture) -> None:
    whole = dataclasses.replace(PAPER, engine="peft", quantization="none")
    alone = memory_terms(llama, whole)
    layer, tail = llama.linear_weights // llama.layers * 2, llama.vocabulary * llama.hidden * 2
    for ranks in (2, 4, 8):
        shared = memory_terms(llama, _shared(ranks, "fsdp", engine="peft", quantization="none"))
        part = alone["weights"].low / ranks
        assert shared["weights"].low == pytest.approx(part + 2 * layer + tail)
        assert shared["weights"].high == pytest.approx(part + 3 * layer + tail)
        for name in ("lora", "gradients"):
            assert shared[name].low == alone[name].expected / ranks
        assert shared["gradients"].high - shared["gradients"].low == alone["gradients"].expected / 2
        # Two float32 states a parameter, where a whole tensor has two of 8 bits.
        assert shared["optimizer"].expected == 2 * shared["lora"].expected
        assert shared["activations"] == alone["activations"]


@pytest.mark.parametrize(
    ("ranks", "changes", "code"),
    [
        (2, {"engine": "unsloth", "quantization": "none"}, "engine_unavailable"),
        (2, {"engine": "peft", "quantization": "nf4"}, "quantization_unavailable"),
        (1, {"engine": "peft", "quantization": "none"}, "batch_size_not_shared"),
    ],
)
def test_what_cannot_be_sharded_is_not_estimated(
    llama: Architecture, ranks: int, changes: dict[str, Any], code: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        memory_terms(llama, _shared(ranks, "fsdp", **changes))
    assert refused.value.code == code

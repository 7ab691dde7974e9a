"""What to change so that it fits; each suggestion is true."""

import dataclasses
from typing import Any

import pytest

from narrowcast.estimates.architecture import Architecture
from narrowcast.estimates.duration import unit_flops
from narrowcast.estimates.estimate import Estimate, Plan, estimate
from narrowcast.estimates.history import Correction, NodeFacts
from narrowcast.estimates.shapes import Batching, TrainingShape

GIB = 1024**3
EXACT = ("weights", "quantization_constants", "lora", "gradients", "optimizer")
FIELDS = {"micro_batch": "max_micro_batch"}
BATCHES = Batching((8,), max_length=2048, max_micro_batch=2)


def _on(
    llama: Architecture, t4: NodeFacts, gib: float, batching: Batching = BATCHES, **shape: Any
) -> Estimate:
    """Estimate as the gateway does, from what a job may say."""
    node = t4.model_copy(update={"memory_bytes": int(gib * GIB)})
    rows, length = batching.largest_pass()
    asked = TrainingShape(**{"rank": 64, "length": length, "micro_batch": rows} | shape)
    return estimate(llama, Plan(asked, 936, 3, batching), node)


def test_single_changes_come_in_their_order(llama: Architecture, t4: NodeFacts) -> None:
    found = _on(llama, t4, 11.5)
    assert found.fits == "perhaps"
    assert [list(change.settings) for change in found.changes] == [["max_length"], ["rank"], ["engine"]]
    found = _on(llama, t4, 10, engine="peft")
    assert [list(change.settings) for change in found.changes] == [["max_length"], ["micro_batch"], ["rank"]]


@pytest.mark.parametrize("gib", [7.5, 8, 9, 10])
@pytest.mark.parametrize("engine", ["unsloth", "peft"])
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("longest", [None, 2000, 4096])
def test_what_is_suggested_fits_when_it_is_asked_for(
    llama: Architecture, t4: NodeFacts, gib: float, engine: str, quantization: str, longest: int | None
) -> None:
    """Of shorter rows the trainer takes more at once; then they need what the longer ones did."""
    batching = Batching((8,), max_length=4096, longest=longest, tokens=8192)
    shape: dict[str, Any] = {"engine": engine, "quantization": quantization}
    found = _on(llama, t4, gib, batching, **shape)
    assert found.fits != "yes"
    assert found.changes
    for change in found.changes:
        settings = dict(change.settings)
        passes: dict[str, Any] = {
            FIELDS.get(name, name): settings.pop(name)
            for name in ("max_length", "micro_batch")
            if name in settings
        }
        again = _on(llama, t4, gib, dataclasses.replace(batching, **passes), **shape | settings)
        assert again.fits == "yes"
        assert again.memory.required == change.required


@pytest.mark.parametrize("engine", ["peft", "unsloth"])
@pytest.mark.parametrize("max_length", [300, 2048, 2100, 4096, 4200, 8192, 20_000])
def test_without_the_longest_row_it_is_an_upper_bound(
    llama: Architecture, t4: NodeFacts, max_length: int, engine: str
) -> None:
    """Whatever the longest row turns out to be, the trainer takes no more memory.

    Of few tokens unsloth computes the loss in one piece, which may take more than a fourth of many.
    """
    unknown = Batching((8,), max_length=max_length, tokens=8192)
    most = _on(llama, t4, 80, unknown, engine=engine).memory.required
    for longest in range(64, max_length + 1, 61):
        known = _on(llama, t4, 80, dataclasses.replace(unknown, longest=longest), engine=engine)
        assert known.memory.required.high <= most.high * 1.005, longest


def test_nothing_is_suggested_where_nothing_helps(llama: Architecture, t4: NodeFacts) -> None:
    found = _on(llama, t4, 5)
    assert (found.fits, found.changes) == ("no", [])


def test_a_correction_decides_as_well(llama: Architecture, t4: NodeFacts) -> None:
    plan = Plan(TrainingShape(64, 2048, 2), 936, 3, BATCHES)
    node = t4.model_copy(update={"memory_bytes": 13 * GIB})
    plain = estimate(llama, plan, node)
    assert plain.fits == "yes"
    guess = unit_flops(plan.shape, t4.name)
    assert guess
    corrected = estimate(llama, plan, node, Correction(memory=1.3, flops=(2 * guess.expected,) * 3, jobs=3))
    assert corrected.fits == "perhaps"
    assert corrected.memory.correction.expected > 0
    assert plain.time
    assert corrected.time
    assert corrected.time.minutes.expected == pytest.approx(plain.time.minutes.expected / 2)


@pytest.mark.parametrize("ratio", [0.5, 0.6, 2.0])
@pytest.mark.parametrize("gib", [15, 24])
def test_no_correction_takes_away_what_is_exact(
    llama: Architecture, t4: NodeFacts, ratio: float, gib: int
) -> None:
    plan = Plan(TrainingShape(64, 2048, 2), 936, 3, BATCHES)
    node = t4.model_copy(update={"memory_bytes": gib * GIB})
    memory = estimate(llama, plan, node, Correction(memory=ratio, jobs=9)).memory
    exact = sum(getattr(memory, name).expected for name in EXACT)
    assert memory.total.low > exact
    beyond = (memory.activations + memory.allocator) * ratio
    assert memory.total.expected == pytest.approx(exact + beyond.expected)


def test_a_gpu_in_no_table_has_no_minutes_until_a_job_was_measured(
    llama: Architecture, t4: NodeFacts
) -> None:
    node = t4.model_copy(update={"name": "Imaginary 9000"})
    plan = Plan(TrainingShape(64, 2048, 2), 936, 3, BATCHES)
    found = estimate(llama, plan, node)
    assert found.time is None
    assert found.fits == "yes"
    guess = unit_flops(plan.shape, t4.name)
    assert guess
    learnt = estimate(llama, plan, node, Correction(flops=(guess.expected,), jobs=1)).time
    known = estimate(llama, plan, t4).time
    assert learnt
    assert known
    for end in ("low", "expected", "high"):
        assert getattr(learnt.minutes, end) == pytest.approx(getattr(known.minutes, end), rel=0.01)


def test_of_a_small_base_the_other_engine_is_offered(smollm2: Architecture, t4: NodeFacts) -> None:
    """Its large vocabulary weighs more than its layers: peft's loss, in tiles, needs less."""
    found = _on(smollm2, t4, 1, Batching((8,), max_length=256, max_micro_batch=1), rank=8)
    assert found.fits == "perhaps"
    assert [change.settings for change in found.changes] == [{"engine": "peft"}]
    assert found.changes[0].consequence == "the same training, slower"
    assert (
        _on(smollm2, t4, 1, Batching((8,), max_length=256, max_micro_batch=1), rank=8, engine="peft").fits
        == "yes"
    )


def test_what_is_sharded_is_not_told_to_be_quantised(llama: Architecture, t4: NodeFacts) -> None:
    """Two cards of 16 GiB hold an 8B base in 16 bits, which one does not; smaller ones need shorter rows."""
    node = t4.model_copy(update={"parallelism": "fsdp", "gpus": 2, "engine": "peft", "quantization": "none"})
    batching = Batching((8,), max_length=2048, max_micro_batch=2, ranks=2)
    sharded = TrainingShape(64, 2048, 2, "peft", "none", ranks=2, parallelism="fsdp")

    def on(gib: float) -> Estimate:
        there = node.model_copy(update={"memory_bytes": int(gib * GIB)})
        return estimate(llama, Plan(sharded, 936, 3, batching), there)

    assert (on(16).fits, on(16).gpus) == ("yes", 2)
    assert on(13).changes
    assert not {"engine", "quantization"} & {name for change in on(13).changes for name in change.settings}
    one = dataclasses.replace(sharded, ranks=1, parallelism="ddp")
    assert estimate(llama, Plan(one, 936, 3, batching), t4).fits == "no"


def test_several_gpus_are_at_best_as_fast_as_all_of_them(llama: Architecture, t4: NodeFacts) -> None:
    alone = estimate(llama, Plan(TrainingShape(64, 2048, 2), 936, 3, BATCHES), t4).time
    four = estimate(llama, Plan(TrainingShape(64, 2048, 2, ranks=4), 936, 3, BATCHES), t4).time
    assert alone
    assert four
    assert four.minutes.high == pytest.approx(alone.minutes.high)
    assert four.minutes.low == pytest.approx(alone.minutes.low / 4)

"""What to change so that it fits; each suggestion is true."""

import dataclasses

import pytest

from narrowcast.estimates.architecture import Architecture
from narrowcast.estimates.estimate import Estimate, Plan, estimate
from narrowcast.estimates.history import Correction, NodeFacts
from narrowcast.estimates.shapes import TrainingShape

GIB = 1024**3
FIELDS = {"max_length": "length"}


def _on(llama: Architecture, t4: NodeFacts, gib: float, shape: TrainingShape) -> Estimate:
    node = t4.model_copy(update={"memory_bytes": int(gib * GIB)})
    return estimate(llama, Plan(shape, 936, 3, 8), node)


def test_single_changes_come_in_their_order(llama: Architecture, t4: NodeFacts) -> None:
    found = _on(llama, t4, 10, TrainingShape(64, 2048, 2))
    assert found.fits == "perhaps"
    assert [list(change.settings) for change in found.changes] == [["max_length"], ["micro_batch"], ["rank"]]


@pytest.mark.parametrize("gib", [7.5, 8, 9, 10, 11])
@pytest.mark.parametrize("engine", ["unsloth", "peft"])
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_what_is_suggested_fits(
    llama: Architecture, t4: NodeFacts, gib: float, engine: str, quantization: str
) -> None:
    shape = TrainingShape(64, 4096, 4, engine, quantization)  # type: ignore[arg-type]
    found = _on(llama, t4, gib, shape)
    assert found.fits != "yes"
    assert found.changes
    for change in found.changes:
        changed = {FIELDS.get(name, name): value for name, value in change.settings.items()}
        again = _on(llama, t4, gib, dataclasses.replace(shape, **changed))  # type: ignore[arg-type]
        assert again.fits == "yes"
        assert again.memory.required == change.required


def test_nothing_is_suggested_where_nothing_helps(llama: Architecture, t4: NodeFacts) -> None:
    found = _on(llama, t4, 5, TrainingShape(64, 2048, 2))
    assert (found.fits, found.changes) == ("no", [])


def test_a_correction_decides_as_well(llama: Architecture, t4: NodeFacts) -> None:
    plan = Plan(TrainingShape(64, 2048, 2), 936, 3, 8)
    node = t4.model_copy(update={"memory_bytes": 12 * GIB})
    assert estimate(llama, plan, node).fits == "yes"
    corrected = estimate(llama, plan, node, Correction(memory=1.3, speed=2.0, jobs=5))
    assert corrected.fits == "perhaps"
    assert corrected.memory.correction.expected > 0
    plain = estimate(llama, plan, node)
    assert plain.time
    assert corrected.time
    assert corrected.time.minutes.expected == pytest.approx(plain.time.minutes.expected / 2)


def test_an_unknown_gpu_has_memory_but_no_minutes(llama: Architecture, t4: NodeFacts) -> None:
    node = t4.model_copy(update={"name": "Imaginary 9000"})
    found = estimate(llama, Plan(TrainingShape(64, 2048, 2), 936, 3, 8), node)
    assert found.time is None
    assert found.fits == "yes"

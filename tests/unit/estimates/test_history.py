"""The correction from finished jobs: bounded, and deaf to a single odd one."""

import pytest

from narrowcast.estimates.history import KEPT_OBSERVATIONS, Correction, Observation, corrected
from narrowcast.estimates.shapes import Range

GUESS = Range.of(1e12, 3e12)


BASE = 8_000_000_000


def _took(memory_ratio: float = 1, flops: float | None = None, parameters: int = BASE) -> Observation:
    return Observation(parameters=parameters, memory_ratio=memory_ratio, flops=flops)


def _memory(*ratios: float) -> float:
    return corrected((_took(ratio) for ratio in ratios), BASE).memory


def test_without_jobs_the_formula_stands() -> None:
    assert corrected([], BASE) == Correction(memory=1, flops=(), jobs=0)
    assert corrected([], BASE).speed(GUESS) == GUESS
    assert corrected([], BASE).speed(None) is None


@pytest.mark.parametrize("odd", [0.01, 5.0, 1e9])
def test_a_single_job_changes_nothing(odd: float) -> None:
    assert _memory(odd) == 1


@pytest.mark.parametrize("odd", [0.01, 1e9])
def test_an_outlier_among_many_hardly_counts(odd: float) -> None:
    assert _memory(1.2, 1.2, 1.2, 1.2, odd) == pytest.approx(1.2, rel=0.1)


def test_jobs_that_agree_are_believed() -> None:
    assert _memory(1.3, 1.3, 1.3) == pytest.approx(1.3)
    assert _memory(0.8, 0.8, 0.8, 0.8) == pytest.approx(0.8)


def test_it_is_bounded() -> None:
    found = corrected([_took(50, 0.001)] * KEPT_OBSERVATIONS, BASE)
    assert (found.memory, found.jobs) == (2.0, KEPT_OBSERVATIONS)
    assert found.speed(GUESS) == GUESS * 0.1


def test_only_the_newest_count() -> None:
    newest, older = [1.1] * KEPT_OBSERVATIONS, [1.9] * 50
    assert _memory(*newest, *older) == pytest.approx(1.1)


def test_speed_is_learnt_from_the_jobs_that_measured_it() -> None:
    found = corrected([_took()] * 4 + [_took(flops=3 * GUESS.expected)] * 4, BASE).speed(GUESS)
    assert found
    assert found.expected == pytest.approx(3 * GUESS.expected)


def test_jobs_of_bases_of_another_size_say_nothing() -> None:
    """A small base keeps no GPU busy."""
    small = [_took(0.5, 1.0, 135_000_000)] * 3
    assert corrected(small, BASE) == Correction()
    assert corrected(small, 494_000_000).jobs == 0
    assert corrected([*small, _took(1.4, parameters=14_000_000_000)], BASE).jobs == 1
    assert corrected(small * 9 + [_took(1.4)] * 3, BASE).memory == pytest.approx(1.4)


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), float("inf")])
def test_impossible_measurements_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="memory_ratio"):
        _took(ratio)

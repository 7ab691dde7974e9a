"""The correction from finished jobs: bounded, and deaf to a single odd one."""

import pytest

from narrowcast.estimates.history import KEPT_OBSERVATIONS, Correction, Observation, corrected


def _memory(*ratios: float) -> float:
    return corrected(Observation(memory_ratio=ratio) for ratio in ratios).memory


def test_without_jobs_the_formula_stands() -> None:
    assert corrected([]) == Correction(memory=1, speed=1, jobs=0)


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
    many = [Observation(memory_ratio=50, speed_ratio=0.001)] * KEPT_OBSERVATIONS
    assert corrected(many) == Correction(memory=2.0, speed=0.1, jobs=KEPT_OBSERVATIONS)


def test_only_the_newest_count() -> None:
    newest, older = [1.1] * KEPT_OBSERVATIONS, [1.9] * 50
    assert _memory(*newest, *older) == pytest.approx(1.1)


def test_speed_is_learnt_from_the_jobs_that_measured_it() -> None:
    seen = [Observation(memory_ratio=1)] * 4 + [Observation(memory_ratio=1, speed_ratio=3)] * 4
    assert corrected(seen).speed == pytest.approx(3)


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), float("inf")])
def test_impossible_measurements_are_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="memory_ratio"):
        Observation(memory_ratio=ratio)

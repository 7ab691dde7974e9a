"""Which rows go together."""

import random

import pytest

from narrowcast_trainer.batches import LengthGrouped, micro_batch


@pytest.mark.parametrize(
    ("longest", "tokens", "expected"),
    [(100, 1, 1), (100, 250, 2), (100, 400, 4), (100, 10_000, 8), (900, 800, 1)],
)
def test_micro_batches_divide_the_batch_and_fit(longest: int, tokens: int, expected: int) -> None:
    assert micro_batch([10, longest, 50], 8, tokens) == expected


def test_six_rows_split_into_what_divides_six() -> None:
    assert micro_batch([100], 6, 400) == 3


def test_an_epoch_holds_every_row_once_and_can_be_repeated() -> None:
    lengths = random.Random(7).choices(range(10, 900), k=103)
    sampler = LengthGrouped(lengths, 8, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(103))
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    again = LengthGrouped(lengths, 8, seed=1)
    again.set_epoch(1)
    assert list(again) == second
    assert list(LengthGrouped(lengths, 8, seed=2)) != first


def test_a_batch_holds_rows_of_similar_length() -> None:
    lengths = random.Random(3).choices(range(10, 900), k=200)
    order = list(LengthGrouped(lengths, 8, seed=1))
    batches = [[lengths[row] for row in order[at : at + 8]] for at in range(0, 200, 8)]
    padding = sum(max(batch) * len(batch) - sum(batch) for batch in batches)
    assert padding < 0.1 * sum(lengths)
    assert sorted(batches, key=sum) != batches


def test_fewer_rows_than_a_batch() -> None:
    assert sorted(LengthGrouped([5, 6, 7], 8, seed=1)) == [0, 1, 2]


@pytest.mark.parametrize(("most", "expected"), [(None, 8), (8, 8), (7, 4), (4, 4), (3, 2), (1, 1)])
def test_after_an_attempt_without_enough_memory_fewer_rows_go_at_once(
    most: int | None, expected: int
) -> None:
    assert micro_batch([10], 8, 10_000, most) == expected

"""Which rows go together."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from narrowcast.estimates.shapes import largest_micro_batch
from narrowcast.training import Hyperparameters
from narrowcast_trainer.batches import LengthGrouped
from narrowcast_trainer.settings import TrainingSettings


@pytest.mark.parametrize(
    ("longest", "tokens", "expected"),
    [(100, 1, 1), (100, 250, 2), (100, 400, 4), (100, 10_000, 8), (900, 800, 1)],
)
def test_micro_batches_divide_the_batch_and_fit(longest: int, tokens: int, expected: int) -> None:
    assert largest_micro_batch(longest, 8, tokens) == expected


def test_six_rows_split_into_what_divides_six() -> None:
    assert largest_micro_batch(100, 6, 400) == 3


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


@pytest.mark.parametrize("rows", [17, 22])
def test_no_row_is_in_the_short_batch_of_every_epoch(rows: int) -> None:
    """The longest ones would be, and count several times what others count."""
    sampler = LengthGrouped(range(100, 100 + rows), 8, seed=1)
    seen: list[int] = []
    for epoch in range(200):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(rows))
        seen += order[rows // 8 * 8 :]
    assert max(seen.count(row) for row in range(rows)) < 150
    assert len(set(seen)) == rows


def test_fewer_rows_than_a_batch() -> None:
    assert sorted(LengthGrouped([5, 6, 7], 8, seed=1)) == [0, 1, 2]


@pytest.mark.parametrize(("most", "expected"), [(None, 8), (8, 8), (7, 4), (4, 4), (3, 2), (1, 1)])
def test_after_an_attempt_without_enough_memory_fewer_rows_go_at_once(
    most: int | None, expected: int
) -> None:
    assert largest_micro_batch(10, 8, 10_000, most) == expected


@pytest.mark.parametrize(
    ("asked", "after_out_of_memory", "expected"),
    [(None, None, 8), (4, None, 4), (None, 2, 2), (4, 2, 2), (2, 4, 2)],
)
def test_a_job_s_micro_batch_and_what_memory_has_shown_both_hold(
    asked: int | None, after_out_of_memory: int | None, expected: int
) -> None:
    from narrowcast_trainer.engines.loop import training_micro_batch

    task: Any = SimpleNamespace(
        hyperparameters=Hyperparameters(micro_batch=asked),
        settings=TrainingSettings(micro_batch_tokens=80),
        train=[SimpleNamespace(input_ids=[0] * length) for length in (3, 10, 5)],
        max_micro_batch=after_out_of_memory,
    )
    assert training_micro_batch(task) == expected

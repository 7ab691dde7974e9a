import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowcast.errors import InvalidInput
from narrowcast_gateway.preprocessing.splitting import Split, SplitInput, split_rows

WORDS = [f"слово{number}" for number in range(3000)]


def rows_of(texts: list[str]) -> list[SplitInput]:
    return [SplitInput(f"r{number}", f"d{number}", text) for number, text in enumerate(texts)]


def random_text(rng: random.Random, length: int = 60) -> str:
    return " ".join(rng.choices(WORDS, k=length))


def side_of(split: Split, row_id: str) -> str:
    return next(name for name in ("train", "validation", "test") if row_id in getattr(split, name))


def test_near_duplicates_stay_together() -> None:
    rng = random.Random(1)
    texts = []
    for _ in range(40):
        words = random_text(rng).split()
        for _ in range(3):
            variant = list(words)
            variant[rng.randrange(len(words))] = "иначе"
            texts.append(" ".join(variant))
    split = split_rows(rows_of(texts), seed=3, validation=0.2, test=0.2)
    for start in range(0, len(texts), 3):
        assert len({side_of(split, f"r{number}") for number in range(start, start + 3)}) == 1
    assert split.clusters == 40
    assert split.exact_duplicates + split.near_duplicates == 80


def test_equal_texts_are_counted_and_kept_together() -> None:
    rng = random.Random(2)
    text = random_text(rng)
    split = split_rows(
        rows_of([text, text.upper(), *(random_text(rng) for _ in range(20))]),
        seed=1,
        validation=0.2,
        test=0.2,
    )
    assert split.exact_duplicates == 1
    assert side_of(split, "r0") == side_of(split, "r1")


def test_rows_of_one_document_stay_together() -> None:
    rng = random.Random(3)
    rows = [SplitInput(f"r{number}", f"d{number // 2}", random_text(rng)) for number in range(60)]
    split = split_rows(rows, seed=5, validation=0.2, test=0.2)
    assert all(side_of(split, f"r{number}") == side_of(split, f"r{number + 1}") for number in range(0, 60, 2))


def test_a_giant_cluster_goes_to_train() -> None:
    rng = random.Random(4)
    texts = ["норма без особенностей"] * 50 + [random_text(rng) for _ in range(10)]
    split = split_rows(rows_of(texts), seed=7, validation=0.1, test=0.1)
    assert side_of(split, "r0") == "train"
    assert split.validation
    assert split.test


def test_shares_are_kept_and_the_seed_decides() -> None:
    rng = random.Random(5)
    rows = rows_of([random_text(rng) for _ in range(200)])
    split = split_rows(rows, seed=11, validation=0.1, test=0.2)
    assert (len(split.train), len(split.validation), len(split.test)) == (140, 20, 40)
    assert split == split_rows(rows, seed=11, validation=0.1, test=0.2)
    assert split != split_rows(rows, seed=12, validation=0.1, test=0.2)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 12), st.integers(0, 5), st.sampled_from([(0.1, 0.1), (0.0, 0.1), (0.0, 0.0), (0.3, 0.3)])
)
def test_every_row_is_placed_once(count: int, seed: int, shares: tuple[float, float]) -> None:
    rng = random.Random(count)
    split = split_rows(
        rows_of([random_text(rng) for _ in range(count)]), seed=seed, validation=shares[0], test=shares[1]
    )
    placed = [*split.train, *split.validation, *split.test]
    assert sorted(placed) == sorted(f"r{number}" for number in range(count))
    if count >= 3:
        assert split.train
        assert bool(split.validation) == (shares[0] > 0)
        assert bool(split.test) == (shares[1] > 0)


def test_shares_out_of_range_are_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        split_rows([], seed=0, validation=0.6, test=0.4)
    assert caught.value.code == "invalid_split"

"""How rows are dealt out to ranks, and how many ranks there are."""

import pytest
from pydantic import ValidationError

from narrowcast.sweeps import SearchSpace
from narrowcast.training import Hyperparameters
from narrowcast_trainer.batches import LengthGrouped
from narrowcast_trainer.child import training_environment
from narrowcast_trainer.ranks import rank_count
from narrowcast_trainer.settings import TrainingSettings


@pytest.mark.parametrize("rows", [1, 8, 13, 14, 16, 17])
@pytest.mark.parametrize(("ranks", "micro"), [(2, 1), (2, 2), (4, 1), (4, 2)])
def test_each_step_has_the_rows_it_has_on_one_rank(rows: int, ranks: int, micro: int) -> None:
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    size, lengths = 8, [3 * (number % 7) + number for number in range(rows)]
    alone = list(LengthGrouped(lengths, size, seed=1))
    expected = [sorted(alone[at : at + size]) for at in range(0, rows, size)]
    parts = []
    for rank in range(ranks):
        sampler = LengthGrouped(lengths, size, seed=1, multiple=micro * ranks)
        batches = BatchSampler(sampler, micro, drop_last=False)  # type: ignore[arg-type]  # an iterable will do
        parts.append(list(BatchSamplerShard(batches, ranks, rank)))
    assert len({len(part) for part in parts}) == 1, "as many for each"
    accumulated = size // (micro * ranks)
    steps = []
    for start in range(0, len(parts[0]), accumulated):
        taken = [row for part in parts for batch in part[start : start + accumulated] for row in batch]
        steps.append(sorted(row for row in taken if row < rows))
        assert all(row == rows for row in taken if row >= rows), "fillers are the row after the last"
    assert steps == expected


@pytest.mark.parametrize(
    ("set_to", "batch_size", "swept", "ranks"),
    [(1, 8, None, 1), (4, 8, None, 4), (3, 8, None, 2), (8, 4, None, 4), (4, 3, None, 3), (4, 8, (8, 6), 2)],
)
def test_as_many_ranks_as_share_every_batch(
    set_to: int, batch_size: int, swept: tuple[int, ...] | None, ranks: int
) -> None:
    sweep = SearchSpace(batch_size=swept) if swept else None
    hyper = Hyperparameters(batch_size=batch_size, n_trials=2 if swept else 1, sweep=sweep)
    assert rank_count(TrainingSettings(nproc_per_node=set_to), hyper) == ranks


def test_fsdp_wants_several() -> None:
    with pytest.raises(ValidationError, match="nproc_per_node"):
        TrainingSettings(parallelism="fsdp")


@pytest.mark.parametrize(("visible", "seen"), [(None, "0,1"), ("2,3,4", "2,3"), ("5", "5")])
def test_ranks_share_gpus_and_threads(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environment = training_environment(8, 2)
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["OMP_NUM_THREADS"]) == (seen, "4")

"""Which evaluation was best, and when waiting for a better one ends."""

from pathlib import Path
from typing import Any

import pytest

from narrowcast_trainer.engines.best import BestAdapter, Evaluations


def _history(*losses: float) -> list[dict[str, float]]:
    entries: list[dict[str, float]] = []
    for epoch, loss in enumerate(losses, 1):
        entries += [{"step": 10 * epoch, "loss": 1.0}, {"step": 10 * epoch, "eval_loss": loss}]
    return entries


@pytest.mark.parametrize(
    ("losses", "best", "last_is_best", "stops_at_patience"),
    [
        ((), None, False, []),
        ((2.0,), (10, 2.0), True, []),
        ((2.0, 1.5), (20, 1.5), True, []),
        ((2.0, 2.1), (10, 2.0), False, [1]),
        ((2.0, 2.0), (10, 2.0), False, [1]),
        ((2.0, 2.1, 2.2), (10, 2.0), False, [1, 2]),
        ((2.0, 2.1, 1.9, 1.95), (30, 1.9), False, [1]),
    ],
)
def test_best_and_patience(
    losses: tuple[float, ...], best: Any, last_is_best: bool, stops_at_patience: list[int]
) -> None:
    evaluations = Evaluations.of(_history(*losses))
    assert evaluations.best == best
    assert evaluations.last_is_best is last_is_best
    assert [patience for patience in range(5) if evaluations.exhausted(patience)] == stops_at_patience


class _Model:
    def __init__(self, content: str) -> None:
        self._content = content

    def named_parameters(self) -> list[Any]:
        return []

    def save_pretrained(self, folder: Path, **_: Any) -> None:
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_text(self._content)


def test_it_travels_in_a_checkpoint_and_is_replaced_by_a_better_one(tmp_path: Path) -> None:
    first = BestAdapter(tmp_path / "first")
    first.put_into(tmp_path / "empty")
    assert first.folder is None
    assert not (tmp_path / "empty").exists()
    first.keep(_Model("a"))
    first.keep(_Model("b"))
    first.put_into(tmp_path / "checkpoint")
    second = BestAdapter(tmp_path / "second")
    second.take_from(tmp_path / "empty")
    assert second.folder is None
    second.take_from(tmp_path / "checkpoint")
    assert second.folder is not None
    assert (second.folder / "adapter_model.safetensors").read_text() == "b"

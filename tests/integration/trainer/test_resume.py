"""A run that was stopped and resumed ends with the very weights of one that was not."""

from pathlib import Path

import pytest

from narrowcast_trainer.card.record import RunRecord
from narrowcast_trainer.protocol import Measured

from .trainings import assert_same_weights, events_of, stopped, train, weights_of


@pytest.mark.filterwarnings("ignore")
def test_stopped_and_resumed_is_bit_for_bit_the_same(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(models_dir, tmp_path / "whole")
    assert whole.metrics["steps"] == 8

    checkpoint = stopped(3, models_dir, tmp_path / "first")
    # Stopping costs no validation.
    assert not [event for event in events_of(tmp_path / "first", Measured) if event.metrics.valid_loss]

    # Each rank would load it to the first GPU.
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: pytest.fail("loaded to any device"))
    resumed = train(models_dir, tmp_path / "rest", resume=checkpoint)
    assert resumed.metrics["seconds"] > checkpoint.seconds
    assert not checkpoint.folder.exists(), "the disk is to hold one checkpoint, not two"
    assert_same_weights(whole.adapter, resumed.adapter)
    assert any(
        bool(tensor.any()) for name, tensor in weights_of(resumed.adapter).items() if ".lora_B." in name
    )
    for name in ("train_loss", "valid_loss"):
        assert whole.metrics[name] == pytest.approx(resumed.metrics[name], abs=1e-9)
    assert min(event.metrics.step for event in events_of(tmp_path / "rest", Measured)) > 3
    _same_curve(whole.record, resumed.record)


def _same_curve(whole: RunRecord, resumed: RunRecord) -> None:
    """The training card of a run that was interrupted shows all of it."""
    assert [point.step for point in resumed.points] == list(range(1, 9))
    timed = {"tokens_per_s", "memory_bytes"}
    assert [point.model_dump(exclude=timed) for point in resumed.points] == [
        point.model_dump(exclude=timed) for point in whole.points
    ]
    assert all(point.tokens_per_s and point.memory_bytes for point in resumed.points)
    assert [attempt.first_step for attempt in resumed.attempts] == [1, 4]
    assert all(attempt.seconds > 0 for attempt in resumed.attempts)
    assert whole.tokens == resumed.tokens

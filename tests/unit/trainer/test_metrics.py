"""What the trainer shows of its training."""

import math
from contextlib import suppress

from prometheus_client import REGISTRY

from narrowcast.training import TrainingMetrics
from narrowcast_trainer import metrics
from narrowcast_trainer.protocol import Completed, Measured, Note


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_a_training_shows_its_numbers_and_forgets_them_at_its_end() -> None:
    checkpoints = value("narrowcast_training_checkpoints_total") or 0.0
    with suppress(RuntimeError), metrics.training():
        assert value("narrowcast_training_running") == 1
        metrics.show(
            Measured(
                metrics=TrainingMetrics(
                    step=3, total_steps=9, epoch=0.5, train_loss=1.5, tokens_per_s=80.0, eta_s=12.0
                )
            )
        )
        metrics.show(Measured(metrics=TrainingMetrics(step=3, total_steps=9, epoch=0.5, valid_loss=1.75)))
        metrics.show(Note(message="checkpoint at step 3", data={"step": 3}))
        metrics.show(Note(message="a checkpoint was not saved", level="warn"))
        assert value("narrowcast_training_step") == 3
        assert value("narrowcast_training_planned_steps") == 9
        assert value("narrowcast_training_tokens_per_second") == 80
        assert value("narrowcast_training_remaining_seconds") == 12
        assert value("narrowcast_training_loss", split="train") == 1.5
        assert value("narrowcast_training_loss", split="validation") == 1.75
        raise RuntimeError
    assert value("narrowcast_training_running") == 0
    assert value("narrowcast_training_tokens_per_second") == 0
    assert math.isnan(value("narrowcast_training_step") or 0.0)
    assert value("narrowcast_training_loss", split="train") is None
    assert value("narrowcast_training_checkpoints_total") == checkpoints + 1


def test_peak_memory_is_taken_from_the_result() -> None:
    metrics.show(Completed(result={"adapter_id": "a-1", "metrics": {"peak_memory_bytes": 5e9}}))
    assert value("narrowcast_training_peak_memory_bytes") == 5e9
    metrics.show(Completed(result={"adapter_id": "a-1"}))
    assert value("narrowcast_training_peak_memory_bytes") == 5e9

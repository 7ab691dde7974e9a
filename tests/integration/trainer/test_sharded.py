"""FSDP on two ranks of a CPU: stopped and resumed it is the run that was not, and nearly that of one rank."""

from pathlib import Path
from typing import Any

import pytest

from narrowcast.errors import JobFailed
from narrowcast_trainer.settings import TrainingSettings

from .trainings import UNDROPPED, assert_same_weights, losses_of, norms_of, stopped, train, weights_of

pytestmark = pytest.mark.filterwarnings("ignore")
SHARDED = TrainingSettings(
    checkpoint_every_s=1e6, micro_batch_tokens=300, nproc_per_node=2, parallelism="fsdp"
)


def test_a_node_that_cannot_shard_says_so(models_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(JobFailed) as failed:
        train(models_dir, tmp_path, settings=SHARDED)
    assert failed.value.code == "fsdp_unavailable"


@pytest.mark.faults
@pytest.mark.usefixtures("on_gpus")
def test_sharded_and_resumed(models_dir: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"hyperparameters": UNDROPPED, "settings": SHARDED}
    whole = train(models_dir, tmp_path / "whole", **changes)
    checkpoint = stopped(6, models_dir, tmp_path / "first", **changes)
    parts = {path.name for path in (checkpoint.folder / "optimizer_0").iterdir()}
    assert {"__0_0.distcp", "__1_0.distcp"} <= parts, "each rank has a part"
    expected, kept = weights_of(whole.adapter), weights_of(checkpoint.folder)
    assert {name: tensor.shape for name, tensor in kept.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }, "the adapter of a checkpoint can be published as it is"

    resumed = train(models_dir, tmp_path / "rest", resume=checkpoint, **changes)
    assert losses_of(resumed) == losses_of(whole)
    assert_same_weights(whole.adapter, resumed.adapter)

    one = train(models_dir, tmp_path / "one", hyperparameters=UNDROPPED)
    assert expected.keys() == weights_of(one.adapter).keys(), "it is an ordinary adapter"
    # bf16 is rounded to in other places: autocast casts products, FSDP weights. Least evened out in a
    # short batch of short rows.
    assert losses_of(whole) == pytest.approx(losses_of(one), abs=6e-3)
    # The optimizer hides from the losses how large gradients are.
    assert norms_of(whole) == pytest.approx(norms_of(one), rel=0.1)

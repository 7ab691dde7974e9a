"""FSDP on two ranks of a CPU: stopped and resumed it is the run that was not, and nearly that of one rank."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from narrowcast.errors import JobFailed
from narrowcast.training import Hyperparameters
from narrowcast_trainer.checkpoints import Resumable
from narrowcast_trainer.engines.base import Trained, TrainingStopped
from narrowcast_trainer.ranks import SeveralRanks
from narrowcast_trainer.settings import TrainingSettings

from .conftest import TOY
from .test_resume import HYPER, StopAtStep, _adapter, _task

pytestmark = pytest.mark.filterwarnings("ignore")
# Dropout draws other numbers where the rows are dealt out otherwise.
SAME = Hyperparameters.model_validate(HYPER.model_dump() | {"dropout": 0.0})
SHARDED = TrainingSettings(
    checkpoint_every_s=1e6, micro_batch_tokens=300, nproc_per_node=2, parallelism="fsdp"
)


def _train(models_dir: Path, folder: Path, **changes: Any) -> Trained:
    from narrowcast_trainer.engines.peft import PeftEngine

    folder.mkdir(exist_ok=True)
    task = _task(models_dir / TOY, folder / "run", folder / "events", **{"hyperparameters": SAME} | changes)
    engine = PeftEngine()
    if task.settings is SHARDED:
        return SeveralRanks(engine, 2, job_id="ftjob-0", log_level="INFO").train(task)
    return engine.train(task)


def _losses(trained: Trained) -> list[float | None]:
    return [point.train_loss for point in trained.record.points]


def test_a_node_that_cannot_shard_says_so(models_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(JobFailed) as failed:
        _train(models_dir, tmp_path, settings=SHARDED)
    assert failed.value.code == "fsdp_unavailable"


@pytest.mark.faults
@pytest.mark.usefixtures("on_gpus")
def test_sharded_and_resumed(models_dir: Path, tmp_path: Path) -> None:
    import torch

    whole = _train(models_dir, tmp_path / "whole", settings=SHARDED)
    saved: list[Resumable] = []

    def keep(folder: Path, step: int, seconds: float) -> None:
        shutil.copytree(folder, tmp_path / "checkpoint")
        saved.append(Resumable(folder=tmp_path / "checkpoint", step=step, seconds=seconds))

    with pytest.raises(TrainingStopped) as stopped:
        _train(models_dir, tmp_path / "first", settings=SHARDED, stop=StopAtStep(6), save_checkpoint=keep)
    assert stopped.value.step == 6
    parts = {path.name for path in (tmp_path / "checkpoint" / "optimizer_0").iterdir()}
    assert {"__0_0.distcp", "__1_0.distcp"} <= parts, "each rank has a part"
    expected, kept = _adapter(whole.adapter), _adapter(tmp_path / "checkpoint")
    assert {name: tensor.shape for name, tensor in kept.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }, "the adapter of a checkpoint can be published as it is"

    resumed = _train(models_dir, tmp_path / "rest", settings=SHARDED, resume=saved[0])
    assert _losses(resumed) == _losses(whole)
    got = _adapter(resumed.adapter)
    assert all(torch.equal(expected[name], got[name]) for name in expected)

    one = _train(models_dir, tmp_path / "one")
    assert expected.keys() == _adapter(one.adapter).keys(), "it is an ordinary adapter"
    # bf16 is rounded to in other places: autocast casts products, FSDP weights.
    assert _losses(whole) == pytest.approx(_losses(one), abs=2e-3)

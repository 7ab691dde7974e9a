"""What earlier attempts left in S3: used if whole, passed over if not, swept when nobody needs it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef, adapter_prefix, checkpoint_prefix
from narrowcast.artifacts import MANIFEST, publish
from narrowcast.errors import JobFailed
from narrowcast.jobs.records import JobStatus
from narrowcast_trainer.checkpoints import Checkpoints
from narrowcast_trainer.job import sweep_checkpoints
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.run import publish_checkpoint
from narrowcast_trainer.settings import TrainerSettings
from narrowcast_trainer.stop import StopSignal
from narrowcast_trainer.sweep import SweepState

from .conftest import TOY, Desk, Worker, order_of, rows


@pytest.fixture
def checkpoints(desk: Desk) -> Checkpoints:
    return Checkpoints(desk.connections.storage.models, desk.tenant, "ftjob-1", keep=2)


def _save(checkpoints: Checkpoints, tmp_path: Path, step: int) -> None:
    folder = tmp_path / f"checkpoint-{step}"
    (folder / "sub").mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"o" * step)
    (folder / "sub" / "state.json").write_text(str(step))
    checkpoints.save(folder, step, seconds=float(step))


def test_the_newest_whole_checkpoint_is_taken(desk: Desk, checkpoints: Checkpoints, tmp_path: Path) -> None:
    models = desk.connections.storage.models
    for step in (5, 10, 15):
        _save(checkpoints, tmp_path, step)
    kept = {key.split("/")[3] for key in desk.checkpoints("ftjob-1")}
    assert kept == {"step-00000010", "step-00000015"}

    models.put(checkpoint_prefix(desk.tenant, "ftjob-1", 20) + "optimizer.pt", b"half")  # no manifest
    models.put(checkpoint_prefix(desk.tenant, "ftjob-1", 15) + "optimizer.pt", b"damaged")
    found = checkpoints.fetch_newest(tmp_path / "resume")
    assert found is not None
    assert (found.step, found.seconds) == (10, 10.0)
    assert (found.folder / "sub" / "state.json").read_text() == "10"

    # What is damaged is gone, or it would be taken for newer than what is saved from now on.
    assert {key.split("/")[3] for key in desk.checkpoints("ftjob-1")} == {"step-00000010"}
    _save(checkpoints, tmp_path / "anew", 15)
    again = checkpoints.fetch_newest(tmp_path / "again")
    assert again is not None
    assert again.step == 15

    for step in (10, 15):
        models.delete(checkpoint_prefix(desk.tenant, "ftjob-1", step) + MANIFEST)
    assert checkpoints.fetch_newest(tmp_path / "none") is None


def test_halves_of_checkpoints_go_with_the_next_whole_one(
    desk: Desk, checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """A store that is nearly full would be filled by them."""
    _save(checkpoints, tmp_path, 5)
    for step in (3, 7, 8):
        desk.connections.storage.models.put(
            checkpoint_prefix(desk.tenant, "ftjob-1", step) + "optimizer.pt", b"half"
        )
    _save(checkpoints, tmp_path, 10)
    kept = {key.split("/")[3] for key in desk.checkpoints("ftjob-1")}
    assert kept == {"step-00000005", "step-00000010"}


def test_of_a_sweep_without_any_weights_nothing_is_kept(
    desk: Desk, trainer_settings: TrainerSettings, tmp_path: Path
) -> None:
    job = desk.submit(desk.dataset(rows(4), rows(2, 50)), hyper={"n_trials": 2})
    own = Checkpoints(desk.connections.storage.models, desk.tenant, job.id, keep=2)
    (tmp_path / "between" / "kept" / "sweep").mkdir(parents=True)
    (tmp_path / "between" / "kept" / "sweep" / "sweep.json").write_text(SweepState().model_dump_json())
    own.save(tmp_path / "between", 1, seconds=1.0)
    with pytest.raises(JobFailed) as refused:
        publish_checkpoint(
            order_of(job, trainer_settings), Reporter(os.open(os.devnull, os.O_WRONLY)), StopSignal()
        )
    assert refused.value.code == "no_checkpoint"


def test_checkpoints_of_ended_and_unknown_jobs_are_swept(desk: Desk) -> None:
    models, jobs = desk.connections.storage.models, desk.connections.jobs
    queued, cancelled = desk.submit("ds-0"), desk.submit("ds-0")
    jobs.request_cancel(cancelled.id)
    for job_id in (queued.id, cancelled.id, "ftjob-unknown"):
        models.put(checkpoint_prefix(desk.tenant, job_id, 1) + "optimizer.pt", b"o")
    assert sweep_checkpoints(jobs, models) >= 2
    assert desk.checkpoints(queued.id) != []
    assert desk.checkpoints(cancelled.id) == desk.checkpoints("ftjob-unknown") == []


def test_an_adapter_published_by_a_lost_attempt_is_not_made_again(
    desk: Desk, start_worker: Callable[[], Worker]
) -> None:
    job = desk.submit(desk.dataset(rows(4)))
    foreign = desk.submit(desk.dataset(rows(4)))
    for submitted, maker in ((job, job.id), (foreign, "ftjob-another")):
        manifest = AdapterManifest(
            id=submitted.spec["adapter_id"],
            tenant=desk.tenant,
            base=BaseModelRef(name=TOY, fingerprint="f"),
            prompt=PromptRef(template="t", hash="h", default_instruction="i"),
            rank=8,
            engine="peft",
            dataset=submitted.spec["dataset"],
            job=maker,
            metrics={"trained_tokens": 77.0},
        )
        prefix = adapter_prefix(desk.tenant, manifest.id)
        publish(desk.connections.storage.models, prefix, {"adapter_config.json": b"{}"}, manifest)
    worker = start_worker()
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED
    assert ended.result["trained_tokens"] == 77
    refused = desk.ended(foreign.id)
    assert refused.status is JobStatus.FAILED
    assert len(desk.adapter(foreign)) == 2  # another job's, untouched
    assert worker.training_pids() == []

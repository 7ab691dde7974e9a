"""What earlier attempts left in S3: used if whole, passed over if not, swept when nobody needs it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef, adapter_prefix, checkpoint_prefix
from narrowcast.artifacts import MANIFEST, publish
from narrowcast.jobs.records import JobStatus
from narrowcast_trainer.checkpoints import Checkpoints
from narrowcast_trainer.job import sweep_checkpoints

from .conftest import TOY, Desk, Worker, rows


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

    models.delete(checkpoint_prefix(desk.tenant, "ftjob-1", 10) + MANIFEST)
    assert checkpoints.fetch_newest(tmp_path / "again") is None


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

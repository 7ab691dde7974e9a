"""What jobs have left on disks and in S3 is swept when nobody needs it."""

import os
import time
from pathlib import Path

import pytest

from narrowcast.adapters import adapter_prefix, checkpoint_prefix
from narrowcast.artifacts import MANIFEST
from narrowcast.exports import export_prefix
from narrowcast.ids import new_id
from narrowcast.jobs.records import JobKind, JobStatus
from narrowcast_trainer import leftovers
from narrowcast_trainer.leftovers import sweep_adapters, sweep_checkpoints, sweep_exports, sweep_work_dir

from .conftest import WORKER, Desk


def test_checkpoints_of_ended_jobs_are_swept(desk: Desk) -> None:
    models, jobs = desk.connections.storage.models, desk.connections.jobs
    queued, cancelled = desk.submit("ds-0"), desk.submit("ds-0")
    jobs.request_cancel(cancelled.id)
    for job in (queued, cancelled):
        models.put(checkpoint_prefix(desk.tenant, job.id, 1) + "optimizer.pt", b"o")
    assert sweep_checkpoints(jobs, models) >= 1
    assert desk.checkpoints(queued.id) != []
    assert desk.checkpoints(cancelled.id) == []


def test_a_redis_that_is_lost_does_not_take_the_checkpoints_with_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be restored from a backup; the weeks of training would be gone at its first start."""
    models, jobs = desk.connections.storage.models, desk.connections.jobs
    job = desk.submit("ds-0")
    jobs.pause(job.id)
    models.put(checkpoint_prefix(desk.tenant, job.id, 1) + MANIFEST, b"{}")
    desk.connections.redis.flushdb()
    sweep_checkpoints(jobs, models)
    assert desk.checkpoints(job.id) != []
    monkeypatch.setattr(leftovers, "_UNKNOWN_KEPT_S", -60.0)
    sweep_checkpoints(jobs, models)
    assert desk.checkpoints(job.id) == []


def test_adapters_that_nobody_wanted_are_swept(desk: Desk) -> None:
    """Their workers were lost between publishing them and saying so."""
    models, jobs = desk.connections.storage.models, desk.connections.jobs
    cancelled = desk.running()
    kept = reaped, succeeded, older, chosen, works, waits, forgotten = [desk.running() for _ in range(7)]
    for job in (cancelled, *kept):
        desk.publish(job.spec["adapter_id"], job.id)
    jobs._change(reaped.id, lambda job: job.finished(JobStatus.FAILED, time.time()))
    jobs.reap(cancelled.id, time.time() + 3600)
    jobs.request_cancel(cancelled.id)
    jobs.finish(
        succeeded.id, WORKER, JobStatus.SUCCEEDED, result={"adapter_id": succeeded.spec["adapter_id"]}
    )
    jobs.finish(older.id, WORKER, JobStatus.SUCCEEDED)
    jobs.request_cancel(chosen.id, keep_checkpoint=True)
    jobs.finish(chosen.id, WORKER, JobStatus.CANCELLED, result={"adapter_id": chosen.spec["adapter_id"]})
    jobs.reap(waits.id, time.time() + 3600)
    jobs.finish(forgotten.id, WORKER, JobStatus.FAILED)
    jobs.forget(forgotten.id)  # as if Redis had lost it
    models.put(adapter_prefix(desk.tenant, "of-a-newer-version") + MANIFEST, b"{}")
    models.put(adapter_prefix(desk.tenant, "half-of-one") + "adapter_model.safetensors", b"half")

    settled: set[str] = set()
    assert sweep_adapters(jobs, models, desk.deleted, settled) >= 1
    assert desk.adapter(cancelled) == []
    for job in kept:
        desk.check_adapter(job)
    assert desk.job(works.id).status is JobStatus.RUNNING
    left = set(models.folders(f"adapters/{desk.tenant}/"))
    assert left == {job.spec["adapter_id"] for job in kept} | {"of-a-newer-version", "half-of-one"}
    ours = {adapter_prefix(desk.tenant, job.spec["adapter_id"]) for job in (reaped, succeeded, older, chosen)}
    assert settled >= ours, "not looked at again"
    assert not settled & {adapter_prefix(desk.tenant, job.spec["adapter_id"]) for job in (works, waits)}


def test_what_is_left_of_a_deleted_adapter_is_swept_at_once(desk: Desk) -> None:
    """Where the object store failed meanwhile; also if a worker that had lost its job publishes it again."""
    models, jobs = desk.connections.storage.models, desk.connections.jobs
    whole, half, other = desk.running(), desk.running(), desk.running()
    for job in (whole, half, other):
        desk.publish(job.spec["adapter_id"], job.id)
        jobs.finish(job.id, WORKER, JobStatus.SUCCEEDED)
    settled: set[str] = set()
    sweep_adapters(jobs, models, desk.deleted, settled)
    for job in (whole, half):
        desk.deleted.add(desk.tenant, job.spec["adapter_id"])
    models.delete(adapter_prefix(desk.tenant, half.spec["adapter_id"]) + MANIFEST)
    assert sweep_adapters(jobs, models, desk.deleted, settled) >= 2
    assert desk.adapter(whole) == desk.adapter(half) == []
    desk.check_adapter(other)


def test_halves_of_adapters_are_swept_unless_a_job_may_complete_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker was killed in the middle of its last attempt's upload."""
    models, jobs = desk.connections.storage.models, desk.connections.jobs
    ended, works = desk.running(), desk.running()
    jobs.finish(ended.id, WORKER, JobStatus.FAILED)
    for job in (ended, works):
        prefix = adapter_prefix(desk.tenant, job.spec["adapter_id"])
        models.put(prefix + "adapter_model.safetensors", b"half")
    sweep_adapters(jobs, models, desk.deleted)
    assert desk.adapter(ended) != []
    monkeypatch.setattr(leftovers, "_DAY_S", -60.0)
    sweep_adapters(jobs, models, desk.deleted)
    assert desk.adapter(ended) == []
    assert desk.adapter(works) != []


def test_a_record_that_cannot_be_read_keeps_nothing_else_from_being_swept(desk: Desk, tmp_path: Path) -> None:
    models, jobs, redis = desk.connections.storage.models, desk.connections.jobs, desk.connections.redis
    newer, ended = sorted((desk.running(), desk.running()), key=lambda job: job.spec["adapter_id"])
    exports = sorted(new_id(JobKind.EXPORT) for _ in range(2))
    for job in (newer, ended):
        models.put(checkpoint_prefix(desk.tenant, job.id, 1) + MANIFEST, b"{}")
        desk.publish(job.spec["adapter_id"], job.id)
        (tmp_path / job.id).mkdir()
    for export_id in exports:
        models.put(export_prefix(desk.tenant, export_id) + "model.gguf", b"half")
    jobs.finish(ended.id, WORKER, JobStatus.CANCELLED)
    for unread in (newer.id, exports[0]):
        redis.set(f"nc:job:{unread}", '{"status": "validating"}')

    for sweep in (sweep_checkpoints, sweep_exports):
        assert sweep(jobs, models) >= 1
    assert sweep_adapters(jobs, models, desk.deleted) >= 1
    assert sweep_work_dir(jobs, tmp_path) == 1
    assert desk.checkpoints(ended.id) == desk.adapter(ended) == []
    assert desk.checkpoints(newer.id) != []
    desk.check_adapter(newer)
    assert list(models.folders(f"exports/{desk.tenant}/")) == exports[:1]
    assert [folder.name for folder in tmp_path.iterdir()] == [newer.id]


def test_scratch_of_jobs_that_ended_elsewhere_is_swept(desk: Desk, tmp_path: Path) -> None:
    jobs, work_dir = desk.connections.jobs, tmp_path / "work"
    assert sweep_work_dir(jobs, work_dir) == 0
    ended, works, waits = desk.running(), desk.running(), desk.submit("ds-0")
    jobs.finish(ended.id, WORKER, JobStatus.FAILED)
    young, old = new_id(JobKind.TRAINING), new_id(JobKind.EXPORT)
    long_ago = time.time() - 2 * 24 * 3600
    for name in (ended.id, works.id, waits.id, young, old, "of-somebody-else"):
        (work_dir / name / "trainer").mkdir(parents=True)
        (work_dir / name / "trainer" / "optimizer.pt").touch()
        if name != young:
            for path in (
                work_dir / name / "trainer" / "optimizer.pt",
                work_dir / name / "trainer",
                work_dir / name,
            ):
                os.utime(path, (long_ago, long_ago))
    os.utime(work_dir / young, (long_ago, long_ago))  # but not what lies in it

    assert sweep_work_dir(jobs, work_dir) == 2
    left = {folder.name for folder in work_dir.iterdir()}
    assert left == {works.id, waits.id, young, "of-somebody-else"}

"""Disks that are full: the trainer's and the object store's. Real file systems, a few hundred KiB large."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from narrowcast.connections import connect
from narrowcast.errors import NarrowcastError, Unavailable
from narrowcast.jobs.records import Job, JobStatus
from narrowcast.settings import StorageSettings
from narrowcast.storage import Storage
from narrowcast_local.stack import servers
from narrowcast_trainer.settings import TrainerSettings

from .conftest import Desk, Worker, rows
from .small_disks import fill, mounting, seen_by

pytestmark = pytest.mark.faults

Start = Callable[..., Worker]
_BALLAST = "ballast"


def _one_attempt(desk: Desk, job: Job) -> None:
    schedule = job.schedule.model_copy(update={"max_attempts": 1})
    desk.connections.jobs._change(job.id, lambda job: job.model_copy(update={"schedule": schedule}))


@pytest.mark.parametrize(
    ("room_kib", "checkpoint_every_s", "begun"), [(256, 0.001, "training "), (64, 1000.0, "step ")]
)
def test_a_full_work_dir_fails_with_what_to_do_and_leaves_nothing(
    desk: Desk,
    start_worker: Start,
    trainer_settings: TrainerSettings,
    room_kib: int,
    checkpoint_every_s: float,
    begun: str,
) -> None:
    """With little room the first checkpoint does not fit; with less, and without one, the adapter."""
    trainer_settings.trainer.checkpoint_every_s = checkpoint_every_s
    work_dir = trainer_settings.trainer.work_dir
    job = desk.submit(desk.dataset(rows(8)), hyper={"rank": 16})
    _one_attempt(desk, job)
    worker = start_worker(within=mounting(work_dir, room_kib))
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error.code == "disk_full"
    assert "free some space" in ended.error.message
    assert any(message.startswith(begun) for message in desk.events(job.id))
    assert desk.adapter(ended) == desk.checkpoints(job.id) == []
    assert list(seen_by(worker.process.pid, work_dir).iterdir()) == []


def test_a_job_goes_on_when_there_is_room_again(
    desk: Desk, start_worker: Start, trainer_settings: TrainerSettings
) -> None:
    work_dir = trainer_settings.trainer.work_dir
    job = desk.submit(desk.dataset(rows(16)), hyper={"n_epochs": 12})
    worker = start_worker(within=mounting(work_dir, 64 * 1024))
    desk.wait_for_event(job.id, "checkpoint at step")
    ballast = seen_by(worker.process.pid, work_dir) / _BALLAST
    fill(ballast)
    desk.wait_for_event(job.id, "something it needs is away; the job is queued")
    ballast.unlink()
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert ended.attempt == 2
    assert any("resumed after step" in message for message in desk.events(job.id))
    desk.check_adapter(ended)


@pytest.fixture
def small_store(trainer_settings: TrainerSettings, tmp_path: Path) -> Iterator[Path]:
    """rclone's S3 server with 16 MiB for all of it; yields where they are."""
    port, folder = servers.free_port(), tmp_path / "s3"
    storage = StorageSettings.model_validate({"endpoint": f"127.0.0.1:{port}", "secret_key": "test-secret"})
    trainer_settings.storage = storage
    within = mounting(folder, 16 * 1024)
    server = servers.rclone(folder, port, storage.access_key, "test-secret")
    process = subprocess.Popen(
        [*within, *server.command],
        env=server.environment | {"PATH": "/usr/bin:/bin"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while True:
        try:
            Storage(storage).create_buckets()
            break
        except NarrowcastError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    yield seen_by(process.pid, folder)
    process.kill()
    process.wait()


def test_a_full_object_store_costs_checkpoints_and_publishing_waits_for_room(
    small_store: Path,
    connections: Any,
    tenant: str,
    trainer_settings: TrainerSettings,
    start_worker: Start,
) -> None:
    opened = connect(trainer_settings)
    desk = Desk(opened, tenant)
    job = desk.submit(desk.dataset(rows(16)), hyper={"n_epochs": 12, "rank": 64})
    start_worker()
    desk.wait_for_event(job.id, "step ")
    ballast = small_store / _BALLAST
    fill(ballast)
    models = opened.storage.models
    with pytest.raises(Unavailable) as refused:
        models.put("adapters/x", bytes(64 * 1024))
    # This server has no code for it; MinIO has (tests/unit/shared/test_storage.py).
    assert "look at its log, and at the free space on its disk" in refused.value.message
    desk.wait_for_event(job.id, "a checkpoint was not saved: the object store failed")
    desk.wait_for_event(job.id, "waiting: the object store failed")
    ballast.unlink()
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert ended.attempt == 1
    desk.check_adapter(ended)
    opened.redis.close()

"""What gives out in the middle of a training: memory, a bucket; and a base that is not served."""

import math
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from minio.error import S3Error

from narrowcast.adapters import base_fingerprint
from narrowcast.connections import Connections, connect
from narrowcast.errors import Outage
from narrowcast.jobs.records import Job, JobStatus
from narrowcast.jobs.running import run_job
from narrowcast.settings import JobSettings
from narrowcast_trainer import process
from narrowcast_trainer.job import train
from narrowcast_trainer.settings import TrainerSettings

from .conftest import TOY, Desk, Worker, rows

Start = Callable[..., Worker]
LONG: dict[str, Any] = {"n_epochs": 12, "batch_size": 4}
_ROOM = 128 * 1024 * 1024
"""For all but the large blocks. A step needs some 400 MiB, in blocks of 20 MiB a row for the logits; PyTorch
says so when it gets none, where libraries below it crash when they are refused a small one."""


@pytest.fixture
def memory_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training process frees leaves it at once; malloc would keep large blocks for the next step."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1048576")


def _starve(pid: int) -> None:
    """Lower what a process may hold to the least it is seen holding, until the next step's logits do not fit.

    Once would not do: on a busy machine a sample may fall within a step alone, and leave room for all.
    """
    limit: float = math.inf
    while held := _held(pid):
        if held + _ROOM < limit:
            limit = held + _ROOM
            resource.prlimit(pid, resource.RLIMIT_DATA, (int(limit), int(limit)))
        time.sleep(0.02)


def _held(pid: int) -> int:
    """Bytes of a process's own memory; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    _, found, rest = status.partition("VmData:")
    return int(rest.split()[0]) * 1024 if found else 0


def _starve_when_training(desk: Desk, worker: Worker, job_id: str, nth: int) -> None:
    def stepped(_: Any) -> bool:
        """The nth training has made a step: what is loaded at the first one is loaded."""
        trainings = 0
        for message in desk.events(job_id):
            trainings += message.startswith("training ") and "steps" in message
            if trainings == nth and message.startswith("step "):
                return True
        return False

    desk.wait(job_id, stepped)
    _starve(worker.training_pids()[nth - 1])


@pytest.mark.usefixtures("memory_goes_back")
def test_out_of_memory_is_tried_again_with_half_the_rows_at_once(desk: Desk, start_worker: Start) -> None:
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    worker = start_worker()
    _starve_when_training(desk, worker, job.id, 1)
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert ended.attempt == 1, desk.events(job.id)
    assert any("out of memory with 4 rows at once: trying again with 2" in one for one in desk.events(job.id))
    assert ended.result["metrics"]["steps"] == 4 * LONG["n_epochs"]
    assert len(worker.training_pids()) == 2


@pytest.mark.usefixtures("memory_goes_back")
def test_out_of_memory_again_fails_with_what_to_do(desk: Desk, start_worker: Start) -> None:
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    worker = start_worker()
    _starve_when_training(desk, worker, job.id, 1)
    _starve_when_training(desk, worker, job.id, 2)
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.FAILED
    assert ended.error is not None
    assert ended.error.code == "out_of_memory"
    assert all(word in ended.error.message for word in ("max_length", "rank", "nf4"))
    assert len(worker.training_pids()) == 2
    assert desk.adapter(ended) == desk.checkpoints(job.id) == []


def test_the_kernel_s_kill_counts_as_out_of_memory(
    desk: Desk, trainer_settings: TrainerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real SIGKILL; only the kernel's counter, which nobody can make it raise, is the test's."""
    kills = [0]
    monkeypatch.setattr(process, "out_of_memory_kills", lambda: kills[0])
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    models = desk.connections.storage.models
    thread = threading.Thread(
        target=run_job,
        args=(desk.connections.jobs, trainer_settings.jobs, job.id),
        kwargs={"handler": lambda running: train(running, models, trainer_settings)},
    )
    thread.start()
    desk.wait_for_event(job.id, "step ")
    kills[0] += 1
    os.kill(_training_child(), signal.SIGKILL)
    ended = desk.ended(job.id)
    thread.join(30)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert any("trying again with 2" in message for message in desk.events(job.id))


def _training_child() -> int:
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"narrowcast_trainer.run" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("no training process")


@pytest.fixture
def own_bucket(
    connections: Connections, trainer_settings: TrainerSettings, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Desk]:
    """A desk whose bucket of models no other test uses; workers that are started use it as well."""
    name = f"models-{tenant}"
    monkeypatch.setenv("NARROWCAST_STORAGE__MODELS_BUCKET", name)
    trainer_settings.storage = trainer_settings.storage.model_copy(update={"models_bucket": name})
    opened = connect(trainer_settings)
    opened.storage.create_buckets()
    yield Desk(opened, tenant)
    opened.redis.close()


def _remove_models(desk: Desk) -> None:
    models = desk.connections.storage.models
    with suppress(S3Error, Outage):  # a checkpoint has come in meanwhile; or it is removed
        models.delete_prefix("")
        models._client.remove_bucket(models.name)


@pytest.mark.faults
def test_a_bucket_that_is_away_for_a_while_costs_a_checkpoint(
    own_bucket: Desk, trainer_settings: TrainerSettings, start_worker: Start
) -> None:
    trainer_settings.trainer.checkpoint_every_s = 0.5
    desk = own_bucket
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    start_worker()
    desk.wait_for_event(job.id, "checkpoint at step")
    lost = f"a checkpoint was not saved: bucket {desk.connections.storage.models.name} does not exist"

    def said(job: Job) -> bool:
        assert not job.status.terminal, job
        _remove_models(desk)
        return any(message.startswith(lost) for message in desk.events(job.id))

    desk.wait(job.id, said)
    desk.connections.storage.create_buckets()
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert ended.attempt == 1
    desk.check_adapter(ended)


def test_a_bucket_that_stays_away_fails_a_job_with_what_to_do(
    own_bucket: Desk, trainer_settings: TrainerSettings, start_worker: Start
) -> None:
    desk = own_bucket
    trainer_settings.jobs = JobSettings(max_attempts=1, outage_patience_s=0)
    trainer_settings.trainer.storage_patience_s = 0
    _remove_models(desk)
    job = desk.submit(desk.dataset(rows(8)))
    start_worker()
    error = desk.ended(job.id).error
    assert error is not None
    assert error.code == "storage_unavailable"
    assert error.message.startswith(f"bucket {desk.connections.storage.models.name} does not exist")
    assert "provisioning" in error.message


def test_a_base_that_is_not_the_served_one_is_refused_before_it_is_loaded(
    desk: Desk, start_worker: Start, models_dir: Path
) -> None:
    dataset = desk.dataset(rows(8))
    served = desk.submit(dataset, fingerprints=("0" * 64, base_fingerprint(models_dir / TOY)))
    other = desk.submit(dataset, fingerprints=("0" * 64,))
    start_worker()
    assert desk.ended(served.id).status is JobStatus.SUCCEEDED
    refused = desk.ended(other.id)
    assert refused.error is not None
    assert (refused.error.code, refused.error.param) == ("base_not_served", "model")
    assert not any(message.startswith("loading") for message in desk.events(other.id))

"""Redis or the object store goes in the middle of a training: real servers, killed and started again."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from narrowcast.connections import connect
from narrowcast.jobs.records import JobStatus
from narrowcast.settings import RedisSettings, StorageSettings
from narrowcast_local.stack import servers
from narrowcast_trainer.settings import TrainerSettings

from .conftest import Desk, Worker, alive, rows

pytestmark = pytest.mark.faults

Start = Callable[..., Worker]
Runs = Callable[[], Any]
LONG: dict[str, Any] = {"n_epochs": 25, "batch_size": 4}  # a quarter of a minute on a free machine
_READY_S = 60.0


@contextmanager
def _running(command: list[str], ready: Callable[[], bool]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _READY_S
        while not ready():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def own_redis(trainer_settings: TrainerSettings, tmp_path: Path) -> Runs:
    """A Redis of the test's own, on a fixed port: ``with own_redis():`` while it is to run."""
    server = servers.valkey(tmp_path / "valkey", servers.free_port(), "test-password")
    url = f"redis://:test-password@127.0.0.1:{server.port}/0"
    trainer_settings.redis = RedisSettings.model_validate({"url": url})

    def ready() -> bool:
        try:
            return bool(redis.Redis.from_url(url).ping())
        except redis.RedisError:
            return False

    return lambda: _running(server.command, ready)


@pytest.fixture
def own_store(trainer_settings: TrainerSettings, tmp_path: Path) -> Runs:
    """An object store of the test's own, on a fixed port: ``with own_store():`` while it is to run."""
    port = servers.free_port()
    storage = StorageSettings.model_validate({"endpoint": f"127.0.0.1:{port}", "secret_key": "test-secret"})
    trainer_settings.storage = storage
    server = servers.seaweedfs(tmp_path / "s3", port, storage.access_key, "test-secret")

    ready = partial(servers.buckets_ready, storage)

    return lambda: _running(server.command, ready)


@pytest.fixture
def own_desk(trainer_settings: TrainerSettings, tenant: str) -> Iterator[Callable[[], Desk]]:
    """Returns a desk at the test's own servers, once they run."""
    opened = []

    def desk() -> Desk:
        opened.append(connect(trainer_settings))
        return Desk(opened[-1], tenant)

    yield desk
    for connections in opened:
        connections.redis.close()


def test_redis_away_for_less_than_a_lease_costs_nothing(
    own_redis: Runs, own_desk: Callable[[], Desk], trainer_settings: TrainerSettings, start_worker: Start
) -> None:
    trainer_settings.jobs.lease_s = 30
    with own_redis():
        desk = own_desk()
        job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
        worker = start_worker()
        desk.wait_for_event(job.id, "step ")
    (training,) = worker.training_pids()
    time.sleep(4)
    assert alive(training)
    with own_redis():
        ended = desk.ended(job.id)
        events = desk.connections.jobs.events(job.id, desk.tenant)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert ended.attempt == 1
    assert worker.training_pids() == [training]
    measured = [event for event in events if event.type == "metrics"]
    steps = [event.data["step"] for event in measured]
    assert len(set(map(str, steps))) == len(steps), "nothing was said twice"
    # What is measured once a second arrived several at a time: what was said meanwhile was kept.
    times = sorted(event.created_at for event in measured)
    assert min(third - first for first, third in zip(times, times[2:], strict=False)) < 0.5


def test_redis_away_for_longer_than_a_lease_ends_the_attempt_and_the_next_one_resumes(
    own_redis: Runs, own_desk: Callable[[], Desk], start_worker: Start
) -> None:
    with own_redis():
        desk = own_desk()
        job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
        worker = start_worker()
        desk.wait_for_event(job.id, "checkpoint at step")
    (training,) = worker.training_pids()
    deadline = time.monotonic() + 30
    while alive(training):  # whoever has the job next must find nobody else writing
        assert time.monotonic() < deadline, "it goes on without a lease"
        time.sleep(0.1)
    with own_redis():
        ended = desk.ended(job.id)
        assert ended.status is JobStatus.SUCCEEDED, ended.error
        assert ended.attempt == 2
        assert any("resumed after step" in message for message in desk.events(job.id))
        desk.check_adapter(ended)
        assert len(worker.training_pids()) == 2


def test_an_object_store_that_goes_and_comes_back_costs_a_checkpoint(
    own_store: Runs, own_desk: Callable[[], Desk], start_worker: Start
) -> None:
    with own_store():
        desk = own_desk()
        job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
        start_worker()
        desk.wait_for_event(job.id, "checkpoint at step")
    desk.wait_for_event(job.id, "a checkpoint was not saved")
    with own_store():
        ended = desk.ended(job.id)
        assert ended.status is JobStatus.SUCCEEDED, ended.error
        assert ended.attempt == 1
        desk.check_adapter(ended)
        assert desk.checkpoints(job.id) == []


def test_publishing_waits_for_an_object_store_that_is_away(
    own_store: Runs, own_desk: Callable[[], Desk], trainer_settings: TrainerSettings, start_worker: Start
) -> None:
    trainer_settings.trainer.checkpoint_every_s = 1000
    with own_store():
        desk = own_desk()
        job = desk.submit(desk.dataset(rows(8)))
        start_worker()
        desk.wait_for_event(job.id, "step ")
    desk.wait_for_event(job.id, "waiting: the object store does not answer")
    with own_store():
        ended = desk.ended(job.id)
        assert ended.status is JobStatus.SUCCEEDED, ended.error
        assert ended.attempt == 1
        desk.check_adapter(ended)


def test_an_adapter_that_could_not_be_published_is_not_trained_from_the_start_again(
    own_store: Runs, own_desk: Callable[[], Desk], trainer_settings: TrainerSettings, start_worker: Start
) -> None:
    trainer_settings.jobs.max_attempts = 10
    trainer_settings.trainer.storage_patience_s = 2
    with own_store():
        desk = own_desk()
        job = desk.submit(desk.dataset(rows(16)), hyper=LONG | {"n_epochs": 12})
        start_worker()
        desk.wait_for_event(job.id, "checkpoint at step")
    desk.wait_for_event(job.id, "something it needs is away; the job is queued")
    with own_store():
        ended = desk.ended(job.id)
        assert ended.status is JobStatus.SUCCEEDED, ended.error
        assert ended.attempt == 1, "an outage uses up none"
        assert any("resumed after step" in message for message in desk.events(job.id))
        desk.check_adapter(ended)

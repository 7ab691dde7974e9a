"""A real worker and the inference service's real lease, around an engine that notes what it is told."""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

from narrowcast.datasets import Row
from narrowcast.jobs.records import JobStatus
from narrowcast_inference.gpu_lease import GpuLease, Phase
from narrowcast_inference.gpu_sharing import GpuSharingMiddleware
from narrowcast_local.stack.servers import free_port
from narrowcast_trainer.settings import TrainerSettings

from .conftest import Desk, Worker, alive, rows

Start = Callable[..., Worker]
LONG: dict[str, Any] = {"n_epochs": 12}
TTL_S = 600.0
"""As long as may be: who wakes the server in a test's time has given it back."""
SHORT_TTL_S = 6.0


class Inference:
    """Stands where vLLM does; what it is told is kept with the training processes alive then."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.lease = GpuLease(drain_s=1.0)
        self.port = free_port()
        app = Starlette()
        app.state.engine_client = self
        app.add_middleware(GpuSharingMiddleware, lease=self.lease)
        config = uvicorn.Config(app, port=self.port, log_config=None, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    async def sleep(self, level: int = 1, mode: str = "abort") -> None:
        await asyncio.sleep(0.3)
        self.told.append("sleep")

    async def wake_up(self, tags: list[str] | None = None) -> bool:
        self.told.append("wake")
        return True

    async def collective_rpc(self, method: str, *, kwargs: dict[str, Any] | None = None) -> None:
        raise AssertionError(method)

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.02)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    def until(self, phase: Phase) -> None:
        deadline = time.monotonic() + 60
        while self.lease.phase is not phase:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def inference(trainer_settings: TrainerSettings) -> Iterator[Inference]:
    server = Inference()
    trainer = trainer_settings.trainer
    shared = {"gpu_lease_urls": [f"http://127.0.0.1:{server.port}"], "gpu_lease_ttl_s": TTL_S}
    trainer_settings.trainer = type(trainer).model_validate(trainer.model_dump() | shared)
    server.start()
    yield server
    server.stop()


def test_the_model_sleeps_for_as_long_as_the_job_trains(
    desk: Desk, start_worker: Start, inference: Inference
) -> None:
    job = desk.submit(desk.dataset(rows(10)))
    worker = start_worker()
    inference.until(Phase.ASLEEP)
    assert (inference.lease.holder or "").startswith(f"{job.id}.")
    assert desk.ended(job.id).status is JobStatus.SUCCEEDED
    inference.until(Phase.SERVING)
    assert inference.told == ["sleep", "wake"]
    assert not any(alive(pid) for pid in worker.training_pids())

    events = desk.events(job.id)
    pauses, first_step, resumes = (
        next(index for index, event in enumerate(events) if event.startswith(start))
        for start in ("serving pauses", "training 10 steps", "serving may go on")
    )
    assert pauses < first_step < resumes


def test_what_is_refused_is_refused_before_the_model_sleeps(
    desk: Desk, start_worker: Start, inference: Inference
) -> None:
    dataset = desk.dataset(rows(6))
    refused = {
        "rows_too_long": desk.submit(dataset, hyper={"max_length": 64}),
        "engine_unavailable": desk.submit(dataset, hyper={"engine": "unsloth"}),
        "base_not_served": desk.submit(dataset, fingerprints=("0" * 64,)),
        "unservable_adapter": desk.submit(dataset, hyper={"rank": 128}),
        "unknown_base_model": desk.submit(dataset, base="no-such-base"),
        "empty_output": desk.submit(desk.dataset([*rows(2), Row(instruction="i", input="x", output=" ")])),
    }
    start_worker()
    for code, job in refused.items():
        ended = desk.ended(job.id)
        assert ended.error is not None, code
        assert (ended.status, ended.error.code) == (JobStatus.FAILED, code)
        assert not any("serving" in message for message in desk.events(job.id))
    assert inference.told == []
    assert "6 rows of the train split" in desk.job(refused["rows_too_long"].id).error.message  # type: ignore[union-attr]


def test_a_cancelled_and_a_stopped_job_give_the_gpu_back_at_once(
    desk: Desk, start_worker: Start, inference: Inference
) -> None:
    dataset = desk.dataset(rows(16))
    cancelled, stopped = (desk.submit(dataset, hyper=LONG) for _ in range(2))
    worker = start_worker()
    desk.wait_for_event(cancelled.id, "step ")
    desk.connections.jobs.request_cancel(cancelled.id)
    assert desk.ended(cancelled.id).status is JobStatus.CANCELLED
    desk.wait_for_event(stopped.id, "step ")
    assert inference.told == ["sleep", "wake", "sleep"]
    assert worker.terminate(35) == 0
    assert desk.job(stopped.id).status is JobStatus.QUEUED
    inference.until(Phase.SERVING)


def test_a_kept_checkpoint_is_tried_out_while_the_model_sleeps(
    desk: Desk, start_worker: Start, inference: Inference
) -> None:
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    start_worker()
    desk.wait_for_event(job.id, "checkpoint at step")
    desk.connections.jobs.request_cancel(job.id, keep_checkpoint=True)
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.CANCELLED
    assert ended.result["adapter_id"] == job.spec["adapter_id"]
    inference.until(Phase.SERVING)
    leases = [event for event in desk.events(job.id) if event.startswith("serving pauses")]
    assert len(leases) == 2, "one for the training, one for the smoke test"
    # The second may come before the server has begun to wake up: then it sleeps on.
    assert inference.told in (["sleep", "wake"], ["sleep", "wake"] * 2)


def test_a_killed_worker_is_forgotten_and_its_training_is_gone_by_then(
    desk: Desk, start_worker: Start, inference: Inference, trainer_settings: TrainerSettings
) -> None:
    trainer_settings.trainer.gpu_lease_ttl_s = SHORT_TTL_S
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    worker = start_worker()
    desk.wait_for_event(job.id, "step ")
    _, training = worker.training_pids()
    worker.kill_group()
    assert inference.told == ["sleep"], "the lease was renewed until then"
    inference.until(Phase.SERVING)
    assert not alive(training)
    assert inference.told == ["sleep", "wake"]


def test_a_job_waits_while_another_trainer_has_the_gpu(
    desk: Desk, start_worker: Start, inference: Inference
) -> None:
    def other(method: str) -> int:
        return _request(inference.port, method, "other.1")

    assert other("PUT") == 202
    inference.until(Phase.ASLEEP)
    assert other("PUT") == 200
    job = desk.submit(desk.dataset(rows(10)))
    worker = start_worker()
    desk.wait_for_event(job.id, "waiting for the GPU: another job trains")
    checking = worker.training_pids()
    assert len(checking) == 1
    assert not alive(checking[0])
    assert other("DELETE") == 204
    ended = desk.ended(job.id)
    assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 1)
    inference.until(Phase.SERVING)
    assert inference.told == ["sleep", "wake"] * 2


def _request(port: int, method: str, holder: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, f"/narrowcast/gpu-lease/{holder}", json.dumps({"ttl_s": TTL_S}))
        return connection.getresponse().status
    finally:
        connection.close()

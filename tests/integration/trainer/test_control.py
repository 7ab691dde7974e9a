"""Pausing, resuming, hours and cancelling with a checkpoint, through real workers and real trainings."""

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from narrowcast.adapters import AdapterManifest, adapter_prefix
from narrowcast.artifacts import read_manifest
from narrowcast.cards import CARD, CARD_TEXT, LOSS_PNG, LOSS_SVG, STEP_METRICS, TrainingCard
from narrowcast.checkpoints import complete_checkpoints
from narrowcast.jobs.queue import GPU_QUEUE
from narrowcast.jobs.records import Job, JobStatus
from narrowcast.jobs.running import Cancelled, run_job
from narrowcast.jobs.schedule import RunWindow, Schedule
from narrowcast_trainer.job import train
from narrowcast_trainer.leftovers import sweep_checkpoints
from narrowcast_trainer.process import Supervision
from narrowcast_trainer.protocol import Completed
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.run import publish_checkpoint
from narrowcast_trainer.settings import TrainerSettings
from narrowcast_trainer.stop import StopSignal

from .conftest import Desk, Worker, alive, order_of, rows

Start = Callable[..., Worker]
EPOCHS = 12
LONG: dict[str, Any] = {"n_epochs": EPOCHS, "dropout": 0.1}  # time enough to interfere


def _published(desk: Desk, job: Job) -> AdapterManifest:
    prefix = adapter_prefix(desk.tenant, job.spec["adapter_id"])
    return read_manifest(desk.connections.storage.models, prefix, AdapterManifest)


def _losses(desk: Desk, job_id: str) -> dict[tuple[int, str], float]:
    """Return the losses of a job's events; both kinds, at whichever steps were reported."""
    measured = [event.data for event in desk.connections.jobs.events(job_id, desk.tenant)]
    return {
        (int(data["step"]), name): float(data[name])  # type: ignore[arg-type]
        for data in measured
        for name in ("train_loss", "valid_loss")
        if name in data
    }


def _messages(desk: Desk) -> int:
    length: Any = desk.connections.redis.llen(GPU_QUEUE)
    return int(length)


def test_a_paused_and_resumed_training_ends_as_one_that_was_left_alone(
    desk: Desk, start_worker: Start
) -> None:
    dataset = desk.dataset(rows(16), rows(3, start=100))
    paused = desk.submit(dataset, hyper=LONG)
    worker = start_worker()
    desk.wait_for_event(paused.id, "step ")
    desk.connections.jobs.pause(paused.id)
    stopped = desk.wait(paused.id, lambda job: job.status is not JobStatus.RUNNING)
    assert (stopped.status, stopped.attempt, stopped.lease) == (JobStatus.PAUSED, 0, None)
    assert stopped.progress["step"] == max(
        step for step, name in _losses(desk, paused.id) if name == "train_loss"
    )
    assert not worker.has_killed()
    assert not any(alive(pid) for pid in worker.training_pids())

    models = desk.connections.storage.models
    (newest, *_) = complete_checkpoints(models, desk.tenant, paused.id)
    assert 0 < newest.step < 8 * EPOCHS
    assert newest.metrics["train_loss"] > 0
    sweep_checkpoints(desk.connections.jobs, models)
    assert any(key.endswith("manifest.json") for key in desk.checkpoints(paused.id))

    # The trainer is free: another job, the same but for the pause, runs from end to end.
    whole = desk.ended(desk.submit(dataset, hyper=LONG).id)
    assert whole.status is JobStatus.SUCCEEDED, whole.error
    assert desk.job(paused.id).status is JobStatus.PAUSED
    assert _messages(desk) == 0

    desk.connections.jobs.resume(paused.id)
    ended = desk.ended(paused.id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert ended.attempt == 1
    assert f"training {8 * EPOCHS} steps, resumed after step {newest.step}" in desk.events(paused.id)

    for name in ("steps", "train_loss", "valid_loss"):
        assert ended.result["metrics"][name] == whole.result["metrics"][name], name
    weights = "adapter_model.safetensors"
    assert _published(desk, ended).files[weights] == _published(desk, whole).files[weights]
    curve, expected = _losses(desk, paused.id), _losses(desk, whole.id)
    shared = curve.keys() & expected.keys()
    assert sum(name == "valid_loss" for _, name in shared) == EPOCHS
    assert {place: curve[place] for place in shared} == {place: expected[place] for place in shared}


def test_a_training_stops_when_its_hours_are_over(desk: Desk, start_worker: Start) -> None:
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    start_worker()
    desk.wait_for_event(job.id, "step ")
    begin, end = (time.strftime("%H:%M", time.gmtime(time.time() + hours * 3600)) for hours in (2, 3))
    hours = RunWindow.model_validate({"start": begin, "end": end, "time_zone": "UTC"})
    desk.connections.jobs._change(
        job.id, lambda job: job.model_copy(update={"schedule": Schedule(window=hours)})
    )
    queued = desk.wait(job.id, lambda job: job.status is not JobStatus.RUNNING)
    assert (queued.status, queued.attempt) == (JobStatus.QUEUED, 0)
    today, tomorrow = (time.strftime("%Y-%m-%d", time.gmtime(time.time() + days * 86_400)) for days in (0, 1))
    (said,) = [message for message in desk.events(job.id) if message.startswith("its hours are over")]
    assert said.removeprefix("its hours are over; the job is queued, and goes on from ") in {
        f"{day}T{begin}+00:00" for day in (today, tomorrow)
    }
    assert any(key.endswith("manifest.json") for key in desk.checkpoints(job.id))
    time.sleep(2)  # four sweeps of the worker's reaper
    assert desk.job(job.id).status is JobStatus.QUEUED
    assert _messages(desk) == 0, "nothing would start a trainer before the evening"


@pytest.mark.parametrize("state", ["running", "paused"])
def test_cancelling_keeps_the_last_checkpoint_if_asked_to(
    desk: Desk, start_worker: Start, state: str
) -> None:
    job = desk.submit(desk.dataset(rows(16), rows(3, start=100)), hyper=LONG)
    first = start_worker()
    models = desk.connections.storage.models
    desk.wait(
        job.id, lambda job: any(one.step >= 8 for one in complete_checkpoints(models, desk.tenant, job.id))
    )
    if state == "paused":
        desk.connections.jobs.pause(job.id)
        desk.wait(job.id, lambda job: job.status is JobStatus.PAUSED)
        assert first.terminate(20) == 0
    asked = desk.connections.jobs.request_cancel(job.id, keep_checkpoint=True)
    if state == "paused":
        assert asked.status is JobStatus.QUEUED
        start_worker()
    ended = desk.ended(job.id)

    assert ended.status is JobStatus.CANCELLED
    assert ended.result["adapter_id"] == job.spec["adapter_id"]
    manifest = _published(desk, ended)
    assert manifest.job == job.id
    assert 0 < manifest.metrics["steps"] < 8 * EPOCHS
    assert manifest.metrics["train_loss"] > 0
    assert (manifest.engine, manifest.quantization) == ("peft", "none")
    card = TrainingCard.model_validate_json(
        desk.connections.storage.models.get(adapter_prefix(desk.tenant, manifest.id) + CARD)
    )
    assert card.ending == "kept_checkpoint"
    steps = int(manifest.metrics["steps"])
    assert [point.step for point in card.history] == list(range(1, steps + 1)), (
        "whole, before and after a pause"
    )
    assert card.attempts
    assert card.resources.seconds
    assert set(manifest.files) >= {CARD, CARD_TEXT, LOSS_PNG, LOSS_SVG, STEP_METRICS}
    # Not the newest weights but the best of those that were validated.
    validated = {
        loss: step
        for (step, name), loss in _losses(desk, job.id).items()
        if name == "valid_loss" and step <= manifest.metrics["steps"]
    }
    assert manifest.metrics["valid_loss"] == min(validated)
    assert manifest.metrics["best_step"] == validated[min(validated)]
    assert card.published_step == manifest.metrics["best_step"]
    assert desk.checkpoints(job.id) == []


def test_cancelled_when_it_is_done_it_keeps_what_it_has_published(
    desk: Desk, trainer_settings: TrainerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not an older checkpoint in its place, under the same name."""
    job = desk.submit(desk.dataset(rows(16)), hyper={"n_epochs": 3})
    take = Supervision._take

    def cancelled_at_the_last_moment(self: Supervision, event: Any) -> None:
        take(self, event)
        if isinstance(event, Completed):
            desk.connections.jobs.request_cancel(job.id, keep_checkpoint=True)
            self._running.renew()
            self._stopping = Cancelled

    monkeypatch.setattr(Supervision, "_take", cancelled_at_the_last_moment)
    models = desk.connections.storage.models
    run_job(
        desk.connections.jobs, trainer_settings.jobs, job.id, lambda one: train(one, models, trainer_settings)
    )
    ended = desk.job(job.id)
    assert ended.status is JobStatus.CANCELLED
    assert ended.result["adapter_id"] == job.spec["adapter_id"]
    assert _published(desk, ended).metrics["steps"] == 24
    assert "no checkpoint was kept" not in " ".join(desk.events(job.id))
    desk.check_adapter(ended)

    # Nor by a worker that comes after one that died before it could say so.
    kept = publish_checkpoint(
        order_of(job, trainer_settings), Reporter(os.open(os.devnull, os.O_WRONLY)), StopSignal()
    )
    assert kept["metrics"]["steps"] == 24


def test_a_checkpoint_that_changes_nothing_is_not_kept(desk: Desk, start_worker: Start) -> None:
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG | {"learning_rate": 1e-12})
    start_worker()
    desk.wait_for_event(job.id, "checkpoint at step")
    desk.connections.jobs.request_cancel(job.id, keep_checkpoint=True)
    ended = desk.ended(job.id)
    assert (ended.status, ended.result) == (JobStatus.CANCELLED, {})
    assert any(
        message.startswith("no checkpoint was kept: the trained adapter failed its smoke test")
        for message in desk.events(job.id)
    )
    assert desk.adapter(ended) == desk.checkpoints(job.id) == []


def test_cancelling_before_there_is_a_checkpoint_says_that_none_was_kept(
    desk: Desk, start_worker: Start
) -> None:
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    start_worker()
    desk.wait(job.id, lambda job: job.status is JobStatus.RUNNING)
    desk.connections.jobs.request_cancel(job.id, keep_checkpoint=True)
    ended = desk.ended(job.id)
    assert (ended.status, ended.result) == (JobStatus.CANCELLED, {})
    assert "no checkpoint was kept: the job has no complete checkpoint" in desk.events(job.id)
    assert desk.adapter(ended) == []


def test_a_worker_takes_jobs_in_their_order(desk: Desk, start_worker: Start) -> None:
    other = Desk(desk.connections, desk.tenant + "-2")
    jobs = [desk.submit("ds-0"), desk.submit("ds-0"), desk.submit("ds-0"), other.submit("ds-0")]
    desk.connections.jobs._change(
        jobs[2].id, lambda job: job.model_copy(update={"schedule": Schedule(priority=1)})
    )
    start_worker()
    started = {job.id: desk.ended(job.id).started_at or 0.0 for job in jobs}
    expected = [jobs[2].id, jobs[3].id, jobs[0].id, jobs[1].id]
    assert sorted(started, key=lambda job_id: started[job_id]) == expected

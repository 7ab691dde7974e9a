"""One job from the queue to its adapter, through a real worker; and every way it may be cut short."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narrowcast.adapters import AdapterManifest, adapter_prefix, base_fingerprint
from narrowcast.artifacts import read_manifest
from narrowcast.cards import (
    CARD,
    CARD_TEXT,
    LOSS_PNG,
    LOSS_SVG,
    STEP_METRICS,
    FailedCardManifest,
    TrainingCard,
    failed_card_prefix,
)
from narrowcast.estimates.history import EstimateFacts, Observation
from narrowcast.jobs.heartbeat import Heartbeat
from narrowcast.jobs.records import Job, JobStatus
from narrowcast.prompts import TEMPLATE_HASH, instruction_for
from narrowcast_trainer.settings import TrainerSettings

from .conftest import REAL, TOY, Desk, Worker, alive, rows

Start = Callable[..., Worker]
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
CARD_FILES = {CARD, CARD_TEXT, LOSS_PNG, LOSS_SVG, STEP_METRICS}
EPOCHS = 12
LONG: dict[str, Any] = {"n_epochs": EPOCHS}  # time enough to interfere


def test_a_queued_job_becomes_an_adapter(
    desk: Desk, start_worker: Start, models_dir: Path, trainer_settings: TrainerSettings
) -> None:
    dataset = desk.dataset(rows(10), rows(3, start=100))
    submitted = desk.submit(dataset)
    worker = start_worker()
    job = desk.ended(submitted.id)

    assert job.status is JobStatus.SUCCEEDED, job.error
    adapter_id = job.spec["adapter_id"]
    models = desk.connections.storage.models
    manifest = read_manifest(models, adapter_prefix(desk.tenant, adapter_id), AdapterManifest)
    assert set(manifest.files) == {"adapter_config.json", "adapter_model.safetensors", *CARD_FILES}
    _check_card(TrainingCard.model_validate_json(models.get(adapter_prefix(desk.tenant, adapter_id) + CARD)))
    assert manifest.base.fingerprint == base_fingerprint(models_dir / TOY)
    assert (manifest.base.name, manifest.rank, manifest.engine) == (TOY, 8, "peft")
    assert manifest.prompt.hash == TEMPLATE_HASH
    assert manifest.prompt.default_instruction == instruction_for("МРТ коленного сустава")
    config = json.loads(models.get(adapter_prefix(desk.tenant, adapter_id) + "adapter_config.json"))
    assert config["base_model_name_or_path"] == TOY
    assert {name.rpartition(".")[2] for name in config["target_modules"]} == LINEAR

    assert job.result["adapter_id"] == adapter_id
    assert job.result["trained_tokens"] > 0
    assert job.result["training_card"]
    metrics = job.result["metrics"]
    assert {"train_loss", "valid_loss", "seconds", "trained_tokens", "tokens_per_s"} <= set(metrics)
    assert metrics["steps"] == 10
    assert metrics["micro_batch"] == 2
    facts = EstimateFacts(desk.connections.redis)
    (node,) = facts.nodes()
    assert facts.config(TOY) == json.loads((models_dir / TOY / "config.json").read_text())
    (raw,) = desk.connections.redis.lrange(f"nc:estimates:observations:{node.name}:peft", 0, -1)  # type: ignore[misc]
    took = Observation.model_validate_json(raw)
    assert 0.5 < took.memory_ratio < 2, "the estimate of a real process is of the right size"
    assert took.flops is not None
    assert facts.correction(node.name, "peft", took.parameters).jobs == 1
    assert desk.checkpoints(job.id) == []
    assert not (trainer_settings.trainer.work_dir / job.id).exists()

    events = desk.connections.jobs.events(job.id, desk.tenant)
    measured = [event.data for event in events if event.type == "metrics"]
    assert any("train_loss" in data for data in measured)
    assert [data["epoch"] for data in measured if "valid_loss" in data] == [1.0, 2.0]
    assert measured[-1]["step"] == 10
    last = next(data for data in reversed(measured) if "train_loss" in data)
    assert (last["step"], last["eta_s"]) == (10, 0)
    assert (
        min(last["grad_norm"], last["tokens_per_s"], max(data.get("learning_rate", 0) for data in measured))
        > 0
    )
    assert any("training 10 steps" in event.message for event in events)

    loaded = {pid: _maps(pid) for pid in _family(worker.process.pid)}
    assert len(loaded) >= 2
    assert not any("libtorch" in maps for maps in loaded.values())
    assert Heartbeat(trainer_settings.trainer.heartbeat_file).is_fresh(60)
    assert worker.terminate(20) == 0
    assert any(line["event"] == "job_succeeded" and line["job_id"] == job.id for line in worker.lines())
    # Neither what was trained on nor what libraries print about it.
    assert "мениск" not in worker.log.read_text().lower()


def _check_card(card: TrainingCard) -> None:
    assert (card.ending, card.resources.steps, len(card.attempts)) == ("completed", 10, 1)
    assert [point.step for point in card.history] == list(range(1, 11))
    assert [epoch.valid_loss is not None for epoch in card.epochs] == [True, True]
    assert all(
        point.train_loss and point.learning_rate is not None and point.tokens_per_s for point in card.history
    )
    assert set(card.configuration.target_modules) == LINEAR
    assert (card.configuration.optimizer, card.configuration.accumulation_steps) == ("adamw_torch_fused", 1)
    assert {"torch", "transformers", "peft", "trl"} <= set(card.configuration.libraries)
    assert [(file.split, file.rows) for file in card.data.files] == [("train", 10), ("validation", 3)]
    assert card.data.tokens is not None
    assert 0 < card.data.tokens.answer_tokens < card.data.tokens.train_tokens
    assert card.resources.tokens_seen == 2 * card.data.tokens.train_tokens
    assert card.resources.rows_seen == 20
    assert card.resources.peak_memory_bytes
    assert card.resources.device_memory_bytes
    assert 0 < card.resources.peak_memory_bytes < card.resources.device_memory_bytes


def test_cancelling_a_running_job_keeps_nothing(desk: Desk, start_worker: Start) -> None:
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    worker = start_worker()
    desk.wait_for_event(job.id, "checkpoint at step")
    desk.connections.jobs.request_cancel(job.id)
    ended = desk.ended(job.id)

    assert ended.status is JobStatus.CANCELLED
    assert not worker.has_killed()
    assert not any(message.startswith(f"step {8 * EPOCHS}/") for message in desk.events(job.id))
    assert desk.checkpoints(job.id) == []
    assert desk.adapter(ended) == []
    assert not any(alive(pid) for pid in worker.training_pids())


def test_a_killed_worker_s_job_is_resumed_by_another(desk: Desk, start_worker: Start) -> None:
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    first = start_worker()
    desk.wait_for_event(job.id, "checkpoint at step")
    (training,) = first.training_pids()
    first.kill_group()
    deadline = time.monotonic() + 5
    while alive(training):
        assert time.monotonic() < deadline, "the training outlived its worker"
        time.sleep(0.05)
    assert desk.job(job.id).status is JobStatus.RUNNING

    start_worker()
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert ended.attempt == 2
    assert any("resumed after step" in message for message in desk.events(job.id))
    assert ended.result["metrics"]["steps"] == 8 * EPOCHS
    desk.check_adapter(ended)
    assert desk.checkpoints(job.id) == []


def test_a_stopped_worker_hands_its_job_on(desk: Desk, start_worker: Start) -> None:
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    first = start_worker()
    desk.wait_for_event(job.id, "step ")
    (training,) = first.training_pids()
    assert first.terminate(35) == 0

    queued = desk.job(job.id)
    assert queued.status is JobStatus.QUEUED
    assert not alive(training)
    assert any(key.endswith("manifest.json") for key in desk.checkpoints(job.id))

    start_worker()
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert any("resumed after step" in message for message in desk.events(job.id))


def test_a_worker_whose_whole_group_is_terminated_hands_its_job_on(desk: Desk, start_worker: Start) -> None:
    job = desk.submit(desk.dataset(rows(16)), hyper=LONG)
    worker = start_worker()
    desk.wait_for_event(job.id, "step ")
    os.killpg(worker.process.pid, signal.SIGTERM)
    worker.process.wait(35)
    assert desk.job(job.id).status is JobStatus.QUEUED
    assert any(key.endswith("manifest.json") for key in desk.checkpoints(job.id))


def test_a_training_process_that_dies_is_started_again(desk: Desk, start_worker: Start) -> None:
    """And ends with the very curve of one that did not, dropout and all."""
    dataset, hyper = desk.dataset(rows(16), rows(3, start=100)), LONG | {"dropout": 0.1}
    job = desk.submit(dataset, hyper=hyper)
    worker = start_worker()
    desk.wait_for_event(job.id, "checkpoint at step")
    os.kill(worker.training_pids()[0], signal.SIGKILL)
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert ended.attempt == 2
    assert any("resumed after step" in message for message in desk.events(job.id))
    assert _curve(desk, ended) == _curve(desk, desk.ended(desk.submit(dataset, hyper=hyper).id))


def _curve(desk: Desk, ended: Job) -> list[dict[str, Any]]:
    prefix, models = adapter_prefix(desk.tenant, ended.result["adapter_id"]), desk.connections.storage.models
    card = TrainingCard.model_validate_json(models.get(prefix + CARD))
    assert len(card.history) >= ended.result["metrics"]["steps"]
    return [point.model_dump(exclude={"tokens_per_s", "memory_bytes"}) for point in card.history]


REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    ("rows_too_long", TOY, {"max_length": 40}),
    ("unknown_base_model", "no-such-base", {}),
    ("unservable_adapter", TOY, {"rank": 128}),
    ("engine_unavailable", TOY, {"engine": "unsloth"}),
    # Of the real base: what the toy says is bounded, so that on some processors its loss hardly rises.
    ("training_diverged", REAL, {"learning_rate": 0.99, "learning_rate_multiplier": 100.0, "n_epochs": 10}),
]


@pytest.mark.usefixtures("real_base")
def test_jobs_that_cannot_succeed_fail_at_once_with_their_reasons(desk: Desk, start_worker: Start) -> None:
    dataset = desk.dataset(rows(4))
    submitted = [(code, desk.submit(dataset, base, hyper)) for code, base, hyper in REFUSED]
    submitted.append(("unknown_dataset", desk.submit("ds-0")))
    start_worker()
    for code, job in submitted:
        ended = desk.ended(job.id)
        assert ended.status is JobStatus.FAILED
        assert ended.error is not None
        assert ended.error.code == code
        assert ended.attempt == 1
        assert desk.adapter(ended) == []
        assert desk.checkpoints(job.id) == []
        _check_card_of_failed(desk, ended, came_to_steps=code == "training_diverged")


def _check_card_of_failed(desk: Desk, ended: Job, *, came_to_steps: bool) -> None:
    data, prefix = desk.connections.storage.data, failed_card_prefix(desk.tenant, ended.id)
    if not came_to_steps:
        assert not list(data.keys(prefix))
        return
    manifest = read_manifest(data, prefix, FailedCardManifest)
    assert set(manifest.files) == CARD_FILES
    card = TrainingCard.model_validate_json(data.get(prefix + CARD))
    assert (card.adapter, card.ending, card.error) == (None, "failed", "training_diverged")
    assert card.history
    assert card.attempts
    assert [file.rows for file in card.data.files] == [4]


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in children)]


def _maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_a_worker_for_one_job_runs_one_and_ends(desk: Desk, start_worker: Start) -> None:
    dataset = desk.dataset(rows(10))
    jobs = [desk.submit(dataset) for _ in range(2)]
    workers = [start_worker("--one-job")]
    assert workers[0].process.wait(120) == 0
    ended = [desk.job(job.id).status for job in jobs]
    assert sorted(ended) == [JobStatus.QUEUED, JobStatus.SUCCEEDED]

    workers.append(start_worker("--one-job"))
    assert workers[1].process.wait(120) == 0
    assert [desk.job(job.id).status for job in jobs] == [JobStatus.SUCCEEDED] * 2


@pytest.mark.usefixtures("connections")  # Redis is empty: another test's job would be one that comes
def test_a_worker_for_one_job_does_not_wait_for_ever(
    trainer_settings: TrainerSettings, tmp_path: Path
) -> None:
    script = tmp_path / "impatient.py"
    script.write_text(
        "import sys\n"
        "from narrowcast_trainer import __main__, worker\n"
        "worker._WAIT_FOR_THE_JOB_S = 1.0\n"
        "sys.exit(__main__.main(['--one-job']))\n"
    )
    environment = {
        "NARROWCAST_REDIS__URL": trainer_settings.redis.dsn,
        "NARROWCAST_STORAGE__ENDPOINT": trainer_settings.storage.endpoint,
        "NARROWCAST_TRAINER__HEARTBEAT_FILE": str(tmp_path / "heartbeat"),
    }
    done = subprocess.run(
        [sys.executable, script], env=os.environ | environment, timeout=60, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert b"no_job_came" in done.stderr

"""A job that was lost to another worker, and what its lost attempts left."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narrowcast.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, checkpoint_prefix
from narrowcast.artifacts import MANIFEST
from narrowcast.errors import JobFailed, Unavailable
from narrowcast.exports import ExportSpec
from narrowcast.jobs.records import Job, JobStatus, Lease, LeaseLost
from narrowcast.jobs.running import Cancelled, RunningJob
from narrowcast.settings import JobSettings
from narrowcast_trainer import job as trainer_job
from narrowcast_trainer.card.record import RunRecord
from narrowcast_trainer.export import job as export_job
from narrowcast_trainer.export.order import ExportOrder
from narrowcast_trainer.job import train
from narrowcast_trainer.process import Supervision
from narrowcast_trainer.protocol import Completed, Failed
from narrowcast_trainer.publish import publish_adapter, published_result
from narrowcast_trainer.settings import TrainerSettings

from .conftest import TOY, WORKER, Desk, Worker, order_of, rows


@pytest.mark.parametrize(
    "end", [None, Cancelled(), Cancelled({"adapter_id": "a"}), JobFailed("x"), Unavailable("x"), OSError()]
)
def test_who_has_lost_a_job_deletes_nothing_of_its_successor_s(
    desk: Desk, trainer_settings: TrainerSettings, end: Exception | None
) -> None:
    """A machine that stood still for a while learns of it by the clock alone."""
    models, job = desk.connections.storage.models, desk.running()
    order = order_of(job, trainer_settings)
    running = lapsed(desk, job)
    models.put(checkpoint_prefix(desk.tenant, job.id, 1) + MANIFEST, b"{}")
    desk.publish(job.spec["adapter_id"], job.id)
    scratch = trainer_settings.trainer.work_dir / job.id
    scratch.mkdir(parents=True)

    def work() -> None:
        with trainer_job._tidied(running, order, models, JobSettings(max_attempts=1)):
            if end is not None:
                raise end

    with pytest.raises(OSError if isinstance(end, OSError) else LeaseLost):
        work()
    assert desk.checkpoints(job.id) != []
    desk.check_adapter(job)
    assert scratch.is_dir()

    supervision = Supervision(running, order, lambda: None)
    for outcome in (Completed(result={}), Failed(code="c", message="m")):
        supervision._outcome = outcome
        with pytest.raises(LeaseLost):
            supervision._conclude(1, None, kernel_killed=False)


def lapsed(desk: Desk, job: Job) -> RunningJob:
    """Return the job as a worker has it whose lease has run out."""
    lease = Lease(owner=WORKER, expires_at=time.time() - 1)
    return RunningJob(desk.connections.jobs, job.model_copy(update={"lease": lease}), WORKER)


def test_who_has_lost_an_export_leaves_its_successors_scratch_alone(
    desk: Desk, trainer_settings: TrainerSettings
) -> None:
    job = desk.running()
    order = ExportOrder(
        job_id=job.id,
        tenant=job.tenant,
        spec=ExportSpec(adapter="a-0", base_model=TOY),
        settings=trainer_settings.trainer,
        storage=trainer_settings.storage,
        hub=trainer_settings.hub,
    )
    scratch = trainer_settings.trainer.work_dir / job.id
    scratch.mkdir(parents=True)
    models, settings = desk.connections.storage.models, trainer_settings.jobs
    with pytest.raises(LeaseLost), export_job._tidied(lapsed(desk, job), order, models, settings):
        raise LeaseLost("lost")
    assert scratch.is_dir()
    running = RunningJob(desk.connections.jobs, job, WORKER)
    with export_job._tidied(running, order, models, settings):
        pass
    assert not scratch.exists()


def test_an_adapter_that_another_attempt_has_published_meanwhile_is_not_replaced(
    desk: Desk, trainer_settings: TrainerSettings, tmp_path: Path
) -> None:
    """It may be served by now; and who is killed in between would leave none."""
    import torch
    from safetensors.torch import save_file

    job = desk.running()
    (tmp_path / ADAPTER_CONFIG).write_text('{"r": 8}')
    save_file({"layer.lora_B.weight": torch.ones(2, 8)}, tmp_path / ADAPTER_WEIGHTS)

    def publish() -> Any:
        return publish_adapter(
            desk.connections.storage.models,
            order_of(job, trainer_settings),
            tmp_path,
            engine="peft",
            quantization=None,
            fingerprint="f",
            default_instruction="i",
            metrics={},
            record=RunRecord(),
            hyperparameters=order_of(job, trainer_settings).spec.hyperparameters,
        )

    first = publish()
    save_file({"layer.lora_B.weight": torch.zeros(2, 8) + 2}, tmp_path / ADAPTER_WEIGHTS)
    assert publish() == first
    desk.check_adapter(job)


@pytest.mark.parametrize("published", [False, True], ids=["a checkpoint", "an adapter of a lost attempt"])
def test_what_was_to_be_kept_is_given_up_by_a_second_cancel(
    desk: Desk, trainer_settings: TrainerSettings, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    models, jobs, job = desk.connections.storage.models, desk.connections.jobs, desk.running()
    running = RunningJob(jobs, jobs.request_cancel(job.id, keep_checkpoint=True), WORKER)
    models.put(checkpoint_prefix(desk.tenant, job.id, 1) + MANIFEST, b"{}")

    def given_up() -> None:
        jobs.request_cancel(job.id)
        running.renew()

    def supervise(*_: Any) -> dict[str, Any]:
        assert not published
        desk.publish(job.spec["adapter_id"], job.id)
        given_up()
        return {"adapter_id": job.spec["adapter_id"]}

    monkeypatch.setattr(trainer_job, "_supervise", supervise)
    if published:
        desk.publish(job.spec["adapter_id"], job.id)

        def found_late(*arguments: Any) -> dict[str, Any] | None:
            result = published_result(*arguments)
            given_up()
            return result

        monkeypatch.setattr(trainer_job, "published_result", found_late)
    with pytest.raises(Cancelled) as cancelled:
        train(running, models, trainer_settings)
    assert cancelled.value.result is None
    assert desk.adapter(job) == desk.checkpoints(job.id) == []


def test_an_adapter_published_by_a_lost_attempt_is_not_made_again(
    desk: Desk, start_worker: Callable[[], Worker]
) -> None:
    job = desk.submit(desk.dataset(rows(4)))
    foreign = desk.submit(desk.dataset(rows(4)))
    for submitted, maker in ((job, job.id), (foreign, "ftjob-another")):
        desk.publish(submitted.spec["adapter_id"], maker)
    worker = start_worker()
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED
    assert ended.result["trained_tokens"] == 77
    refused = desk.ended(foreign.id)
    assert refused.status is JobStatus.FAILED
    assert len(desk.adapter(foreign)) == 2  # another job's, untouched
    assert worker.training_pids() == []

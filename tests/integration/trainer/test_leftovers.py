"""What earlier attempts left in S3: used if whole, passed over if not, swept when nobody needs it."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef, adapter_prefix, checkpoint_prefix
from narrowcast.artifacts import MANIFEST, publish
from narrowcast.errors import JobFailed, Unavailable
from narrowcast.exports import export_prefix
from narrowcast.ids import new_id
from narrowcast.jobs.records import Job, JobKind, JobStatus, Lease, LeaseLost
from narrowcast.jobs.running import Cancelled, RunningJob
from narrowcast.training import Hyperparameters
from narrowcast_trainer import job as trainer_job
from narrowcast_trainer.card.record import RunRecord
from narrowcast_trainer.checkpoints import Checkpoints
from narrowcast_trainer.engines.base import Trained, TrainingStopped, TrainingTask
from narrowcast_trainer.export.job import sweep_exports
from narrowcast_trainer.job import sweep_adapters, sweep_checkpoints, sweep_work_dir, train
from narrowcast_trainer.process import Supervision
from narrowcast_trainer.protocol import Completed, Failed, Prepared
from narrowcast_trainer.publish import published_result
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.run import publish_checkpoint
from narrowcast_trainer.settings import TrainerSettings, TrainingSettings
from narrowcast_trainer.stop import StopSignal
from narrowcast_trainer.sweep import Sweep, SweepState

from .conftest import TOY, Desk, Worker, order_of, rows

WORKER = "a-worker"


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


class _Hungry:
    """An engine that takes 100 steps, saves every tenth, and needs too much memory at the 60th of a trial."""

    name = "hungry"

    def __init__(self, budget: int) -> None:
        self.budget = budget
        """Steps until it is asked to stop."""
        self.began: list[tuple[int, int]] = []
        """At which step, with how many rows at once."""

    def train(self, task: TrainingTask) -> Trained:
        micro_batch, step = task.max_micro_batch or 8, 0
        task.reporter.send(Prepared(micro_batch=micro_batch))
        if task.resume:
            step = json.loads((task.resume.folder / "trainer_state.json").read_text())["global_step"]
        self.began.append((step, micro_batch))
        while step < 100:
            step += 1
            self.budget -= 1
            if step == 60 and micro_batch > 4:
                raise MemoryError
            if step % 10 == 0 or self.budget <= 0:
                folder = task.scratch / f"checkpoint-{step}"
                folder.mkdir(parents=True)
                (folder / "trainer_state.json").write_text(
                    json.dumps({"global_step": step, "log_history": []})
                )
                task.save_checkpoint(folder, step, 1.0)
                shutil.rmtree(folder)
            if self.budget <= 0:
                raise TrainingStopped(step)
        adapter = task.scratch / "adapter"
        adapter.mkdir()
        assert task.should_prune is not None
        task.should_prune([1.0], last=True)
        return Trained(adapter, "none", {"seconds": 1.0, "steps": 100.0}, RunRecord())

    def smoke_test(self, task: TrainingTask, adapter: Path) -> None: ...


def test_a_trial_that_ran_out_of_memory_goes_on_with_fewer_rows_also_after_an_interruption(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """Or an attempt that is shorter than a trial would begin the trial again and again."""

    def attempt(number: int, budget: int) -> _Hungry:
        engine, folder = _Hungry(budget), tmp_path / str(number)
        task = TrainingTask(
            base=tmp_path,
            hyperparameters=Hyperparameters(n_trials=2),
            settings=TrainingSettings(),
            train=[],
            validation=[],
            pad_id=0,
            scratch=folder / "run",
            resume=checkpoints.fetch_newest(folder / "resume"),
            reporter=Reporter(os.open(os.devnull, os.O_WRONLY)),
            stop=StopSignal(),
            save_checkpoint=checkpoints.save,
        )
        sweep = Sweep(engine, task)
        if number < 3:
            with pytest.raises(TrainingStopped):
                sweep.run()
        else:
            assert [trial.state for trial in sweep.run().trials] == ["complete"] * 2
        return engine

    assert attempt(1, 60 + 35).began == [(0, 8), (0, 4)]
    assert attempt(2, 40).began == [(35, 4)]
    assert attempt(3, 1000).began == [(75, 4), (0, 4)]


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
    monkeypatch.setattr(trainer_job, "_UNKNOWN_KEPT_S", -60.0)
    sweep_checkpoints(jobs, models)
    assert desk.checkpoints(job.id) == []


def _running(desk: Desk) -> Job:
    return desk.connections.jobs.claim(desk.submit("ds-0").id, WORKER)


def _publish(desk: Desk, adapter_id: str, maker: str) -> None:
    """Put an adapter there as a job does."""
    manifest = AdapterManifest(
        id=adapter_id,
        tenant=desk.tenant,
        base=BaseModelRef(name=TOY, fingerprint="f"),
        prompt=PromptRef(template="t", hash="h", default_instruction="i"),
        rank=8,
        engine="peft",
        dataset="ds-0",
        job=maker,
        metrics={"trained_tokens": 77.0},
    )
    prefix = adapter_prefix(desk.tenant, adapter_id)
    publish(desk.connections.storage.models, prefix, {"adapter_config.json": b"{}"}, manifest)


def test_adapters_that_nobody_wanted_are_swept(desk: Desk) -> None:
    """Their workers were lost between publishing them and saying so."""
    models, jobs = desk.connections.storage.models, desk.connections.jobs
    cancelled = _running(desk)
    kept = reaped, succeeded, older, chosen, works, waits, forgotten = [_running(desk) for _ in range(7)]
    for job in (cancelled, *kept):
        _publish(desk, job.spec["adapter_id"], job.id)
    jobs._change(reaped.id, lambda job: job.finished(JobStatus.FAILED, time.time()))
    jobs.reap(cancelled.id, time.time() + 3600)
    jobs.request_cancel(cancelled.id)
    jobs.finish(
        succeeded.id, WORKER, JobStatus.SUCCEEDED, result={"adapter_id": succeeded.spec["adapter_id"]}
    )
    jobs.finish(older.id, WORKER, JobStatus.SUCCEEDED)
    jobs.finish(chosen.id, WORKER, JobStatus.CANCELLED, result={"adapter_id": chosen.spec["adapter_id"]})
    jobs.reap(waits.id, time.time() + 3600)
    jobs.finish(forgotten.id, WORKER, JobStatus.FAILED)
    jobs.forget(forgotten.id)  # as if Redis had lost it
    models.put(adapter_prefix(desk.tenant, "of-a-newer-version") + MANIFEST, b"{}")
    models.put(adapter_prefix(desk.tenant, "half-of-one") + "adapter_model.safetensors", b"half")

    settled: set[str] = set()
    assert sweep_adapters(jobs, models, settled) >= 1
    assert desk.adapter(cancelled) == []
    for job in kept:
        desk.check_adapter(job)
    assert desk.job(works.id).status is JobStatus.RUNNING
    left = set(models.folders(f"adapters/{desk.tenant}/"))
    assert left == {job.spec["adapter_id"] for job in kept} | {"of-a-newer-version", "half-of-one"}
    ours = {adapter_prefix(desk.tenant, job.spec["adapter_id"]) for job in (reaped, succeeded, older, chosen)}
    assert settled >= ours, "not looked at again"
    assert not settled & {adapter_prefix(desk.tenant, job.spec["adapter_id"]) for job in (works, waits)}


def test_halves_of_adapters_are_swept_unless_a_job_may_complete_them(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker was killed in the middle of its last attempt's upload."""
    models, jobs = desk.connections.storage.models, desk.connections.jobs
    ended, works = _running(desk), _running(desk)
    jobs.finish(ended.id, WORKER, JobStatus.FAILED)
    for job in (ended, works):
        prefix = adapter_prefix(desk.tenant, job.spec["adapter_id"])
        models.put(prefix + "adapter_model.safetensors", b"half")
    sweep_adapters(jobs, models)
    assert desk.adapter(ended) != []
    monkeypatch.setattr(trainer_job, "_DAY_S", -60.0)
    sweep_adapters(jobs, models)
    assert desk.adapter(ended) == []
    assert desk.adapter(works) != []


def test_a_record_that_cannot_be_read_keeps_nothing_else_from_being_swept(desk: Desk, tmp_path: Path) -> None:
    models, jobs, redis = desk.connections.storage.models, desk.connections.jobs, desk.connections.redis
    newer, ended = sorted((_running(desk), _running(desk)), key=lambda job: job.spec["adapter_id"])
    exports = sorted(new_id(JobKind.EXPORT) for _ in range(2))
    for job in (newer, ended):
        models.put(checkpoint_prefix(desk.tenant, job.id, 1) + MANIFEST, b"{}")
        _publish(desk, job.spec["adapter_id"], job.id)
        (tmp_path / job.id).mkdir()
    for export_id in exports:
        models.put(export_prefix(desk.tenant, export_id) + "model.gguf", b"half")
    jobs.finish(ended.id, WORKER, JobStatus.CANCELLED)
    for unread in (newer.id, exports[0]):
        redis.set(f"nc:job:{unread}", '{"status": "validating"}')

    for sweep in (sweep_checkpoints, sweep_adapters, sweep_exports):
        assert sweep(jobs, models) >= 1
    assert sweep_work_dir(jobs, tmp_path) == 1
    assert desk.checkpoints(ended.id) == desk.adapter(ended) == []
    assert desk.checkpoints(newer.id) != []
    desk.check_adapter(newer)
    assert list(models.folders(f"exports/{desk.tenant}/")) == exports[:1]
    assert [folder.name for folder in tmp_path.iterdir()] == [newer.id]


def test_scratch_of_jobs_that_ended_elsewhere_is_swept(desk: Desk, tmp_path: Path) -> None:
    jobs, work_dir = desk.connections.jobs, tmp_path / "work"
    assert sweep_work_dir(jobs, work_dir) == 0
    ended, works, waits = _running(desk), _running(desk), desk.submit("ds-0")
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


@pytest.mark.parametrize(
    "end", [None, Cancelled(), Cancelled({"adapter_id": "a"}), JobFailed("x"), Unavailable("x"), OSError()]
)
def test_who_has_lost_a_job_deletes_nothing_of_its_successor_s(
    desk: Desk, trainer_settings: TrainerSettings, end: Exception | None
) -> None:
    """A machine that stood still for a while learns of it by the clock alone."""
    models, job = desk.connections.storage.models, _running(desk)
    order = order_of(job, trainer_settings)
    lapsed = job.model_copy(update={"lease": Lease(owner=WORKER, expires_at=time.time() - 1)})
    running = RunningJob(desk.connections.jobs, lapsed, WORKER)
    models.put(checkpoint_prefix(desk.tenant, job.id, 1) + MANIFEST, b"{}")
    _publish(desk, job.spec["adapter_id"], job.id)
    scratch = trainer_settings.trainer.work_dir / job.id
    scratch.mkdir(parents=True)

    def work() -> None:
        with trainer_job._tidied(running, order, models, last_attempt=True):
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


@pytest.mark.parametrize("published", [False, True], ids=["a checkpoint", "an adapter of a lost attempt"])
def test_what_was_to_be_kept_is_given_up_by_a_second_cancel(
    desk: Desk, trainer_settings: TrainerSettings, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    models, jobs, job = desk.connections.storage.models, desk.connections.jobs, _running(desk)
    running = RunningJob(jobs, jobs.request_cancel(job.id, keep_checkpoint=True), WORKER)
    models.put(checkpoint_prefix(desk.tenant, job.id, 1) + MANIFEST, b"{}")

    def given_up() -> None:
        jobs.request_cancel(job.id)
        running.renew()

    def supervise(*_: Any) -> dict[str, Any]:
        assert not published
        _publish(desk, job.spec["adapter_id"], job.id)
        given_up()
        return {"adapter_id": job.spec["adapter_id"]}

    monkeypatch.setattr(trainer_job, "_supervise", supervise)
    if published:
        _publish(desk, job.spec["adapter_id"], job.id)

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
        _publish(desk, submitted.spec["adapter_id"], maker)
    worker = start_worker()
    ended = desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED
    assert ended.result["trained_tokens"] == 77
    refused = desk.ended(foreign.id)
    assert refused.status is JobStatus.FAILED
    assert len(desk.adapter(foreign)) == 2  # another job's, untouched
    assert worker.training_pids() == []

"""A training job as the worker sees it: check, train in a process of its own, tidy up."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from narrowcast import ids, logs
from narrowcast.adapters import AdapterManifest, adapter_prefix, checkpoint_prefix
from narrowcast.artifacts import CorruptArtifact, discard, read_manifest
from narrowcast.errors import Conflict, NarrowcastError, NotFound, Unavailable
from narrowcast.jobs.heartbeat import Heartbeat
from narrowcast.jobs.records import JobKind, JobStatus, LeaseLost
from narrowcast.jobs.running import Cancelled, RunningJob
from narrowcast.jobs.store import JobStore
from narrowcast.storage import Bucket
from narrowcast.training import TrainingSpec
from narrowcast_trainer.gpu import gpu_to_ourselves
from narrowcast_trainer.patience import patiently
from narrowcast_trainer.process import OutOfMemory, Supervision
from narrowcast_trainer.protocol import TaskName, TrainingOrder
from narrowcast_trainer.publish import published_result
from narrowcast_trainer.settings import TrainerSettings

_log = logs.get(__name__)
_CHECKPOINTS: Final = "checkpoints/"
_ADAPTERS: Final = "adapters/"
_DAY_S: Final = 24 * 3600.0
_UNKNOWN_KEPT_S: Final = 30 * _DAY_S
"""How long checkpoints of a job that nobody knows are kept: Redis may come back from a backup."""


def train(running: RunningJob, models: Bucket, settings: TrainerSettings) -> dict[str, Any]:
    """Run one training job; see :meth:`Supervision.run` for how it may end.

    What a job leaves: an adapter if it succeeded, or was cancelled and its checkpoint is to be
    kept; checkpoints if it will be resumed; else nothing.
    """
    job = running.job
    spec = TrainingSpec.model_validate(job.spec)
    order = TrainingOrder(
        job_id=job.id,
        tenant=job.tenant,
        spec=spec,
        settings=settings.trainer,
        storage=settings.storage,
        log_level=settings.log_level,
    )
    heartbeat = Heartbeat(settings.trainer.heartbeat_file)
    last_attempt = job.attempts_used_up(settings.jobs.max_attempts)
    with _tidied(running, order, models, last_attempt=last_attempt), heartbeat.busy():
        published = _published(running, order, models, heartbeat)
        if running.cancelled.is_set():
            kept = published if running.job.keep_checkpoint else None
            raise Cancelled(kept or _keep_checkpoint(running, order, heartbeat))
        if published:
            return published  # and then the worker died before it could say so
        try:
            if settings.trainer.gpu_lease_urls:
                # In a process of its own, without a GPU: serving must not pause for a job that is refused.
                _supervise(running, order, "check", heartbeat.beat)
            with gpu_to_ourselves(running, settings.trainer, heartbeat.beat):
                return _run(running, order, heartbeat.beat)
        except Cancelled as cancelled:
            raise Cancelled(cancelled.result or _keep_checkpoint(running, order, heartbeat)) from None


def _published(
    running: RunningJob, order: TrainingOrder, models: Bucket, heartbeat: Heartbeat
) -> dict[str, Any] | None:
    def beat() -> None:
        heartbeat.beat()
        running.check(although_cancelled=running.job.keep_checkpoint)

    def say(message: str) -> None:
        running.event(message, level="warn")

    # Nothing goes without the object store, and an attempt that fails for want of it is one less.
    patience_s = order.settings.storage_patience_s
    return patiently(lambda: published_result(models, order), patience_s, say=say, beat=beat)


def _keep_checkpoint(
    running: RunningJob, order: TrainingOrder, heartbeat: Heartbeat
) -> dict[str, Any] | None:
    """Publish the cancelled job's newest checkpoint if that was asked for; return the result.

    Raises:
        Interrupted, LeaseLost, Unavailable: as :meth:`Supervision.run`; another worker does it.
    """
    if not running.job.keep_checkpoint:
        return None
    beat = heartbeat.beat
    try:
        # The smoke test loads the base, so the GPU must be free for it as for a training.
        with gpu_to_ourselves(running, order.settings, beat, although_cancelled=True):
            result = _supervise(running, order, "publish_checkpoint", beat)
        # Its user may have given it up meanwhile.
        return result if running.job.keep_checkpoint else None
    except (Unavailable, LeaseLost):
        raise
    except NarrowcastError as error:
        # Cancelled is what the user wanted first of all.
        running.event(f"no checkpoint was kept: {error.message}", level="warn", data={"code": error.code})
        return None


def _run(running: RunningJob, order: TrainingOrder, beat: Callable[[], None]) -> dict[str, Any]:
    try:
        return _supervise(running, order, "train", beat)
    except OutOfMemory as error:
        if error.micro_batch <= 1:
            raise
        # A process of its own again: the failed one's memory is back, all of it. The gradient of a
        # step stays what it was, added up from smaller parts.
        rows = error.micro_batch // 2
        running.event(
            f"out of memory with {error.micro_batch} rows at once: trying again with {rows};"
            " batch_size stays what it was",
            level="warn",
        )
        smaller = order.model_copy(update={"max_micro_batch": rows})
        return _supervise(running, smaller, "train", beat)


def _supervise(
    running: RunningJob, order: TrainingOrder, task: TaskName, beat: Callable[[], None]
) -> dict[str, Any]:
    return Supervision(running, order.model_copy(update={"task": task}), beat).run()


@contextmanager
def _tidied(
    running: RunningJob, order: TrainingOrder, models: Bucket, *, last_attempt: bool
) -> Iterator[None]:
    adapter = adapter_prefix(order.tenant, order.spec.adapter_id)
    checkpoints = checkpoint_prefix(order.tenant, order.job_id)
    try:
        yield
    except (LeaseLost, Conflict):
        raise  # what is there belongs to another
    except Cancelled as cancelled:
        if cancelled.result is None:
            _discard(running, models, adapter)
        _discard(running, models, checkpoints)
        raise
    except NarrowcastError as error:
        if last_attempt or not isinstance(error, Unavailable):
            # Of an adapter there may be files without a manifest, where publishing was cut short.
            _discard(running, models, adapter)
            _discard(running, models, checkpoints)
        raise
    else:
        _discard(running, models, checkpoints)
    finally:
        if not running.is_lost():  # else another trainer of this node may write there by now
            shutil.rmtree(order.settings.work_dir / order.job_id, ignore_errors=True)


def _discard(running: RunningJob, models: Bucket, prefix: str) -> None:
    if running.is_lost():
        raise LeaseLost(f"job {running.job.id} is not run by this worker any more")
    try:
        discard(models, prefix)
    except Unavailable:
        _log.warning("not_discarded", prefix=prefix, exc_info=True)  # later: the sweeps below


def sweep(models: Bucket, root: str, unneeded: Callable[[str, str], bool]) -> int:
    """Delete those folders of each tenant's that are not needed; return how many.

    Args:
        models: the bucket.
        root: where tenants' folders lie; ends in ``/``.
        unneeded: says it of a tenant's folder, by its name.

    Raises:
        Unavailable: the object store does not answer.
    """
    swept = 0
    for tenant in models.folders(root):
        for name in models.folders(f"{root}{tenant}/"):
            prefix = f"{root}{tenant}/{name}/"
            try:
                if not unneeded(tenant, name):
                    continue
            except ValidationError:
                # Its job's record is a newer version's, whose trainers sweep as well.
                _log.warning("job_record_not_understood", prefix=prefix)
                continue
            discard(models, prefix)
            swept += 1
    return swept


def sweep_checkpoints(store: JobStore, models: Bucket) -> int:
    """Delete the checkpoints of jobs that have ended without tidying up; return how many jobs'.

    A job cancelled between two attempts, or failed by a reaper, has no worker to do it. Those of a job
    that nobody knows are kept until they are old: Redis may have been lost.

    Raises:
        Unavailable: the object store does not answer.
    """

    def unneeded(tenant: str, job_id: str) -> bool:
        try:
            return store.get(job_id).status.terminal
        except NotFound:
            return models.age_s(checkpoint_prefix(tenant, job_id)) > _UNKNOWN_KEPT_S

    return sweep(models, _CHECKPOINTS, unneeded)


def sweep_adapters(store: JobStore, models: Bucket, settled: set[str] | None = None) -> int:
    """Delete adapters of jobs that were cancelled without them, and halves of adapters; return how many.

    A worker may be lost between publishing an adapter and saying so. If the job's user cancels it then, the
    adapter is what nobody wanted, but it would be served. Where a reaper ends the job, as it was its last
    attempt, the adapter stays: it is whole and was tried out. Jobs that have succeeded since look like that
    after Redis was restored from a backup.

    Args:
        store: knows the jobs.
        models: holds the adapters.
        settled: prefixes of those that stay. They are added here, and not looked at again: each would take
            a job's record, archived ones with all their events.

    Raises:
        Unavailable: the object store does not answer.
    """
    settled = set() if settled is None else settled

    def unneeded(tenant: str, adapter_id: str) -> bool:
        prefix = adapter_prefix(tenant, adapter_id)
        if prefix in settled:
            return False
        try:
            maker = read_manifest(models, prefix, AdapterManifest).job
        except NotFound:
            # The age first: what a job has begun meanwhile is young then, or the job is found to be live.
            return models.age_s(prefix) > _DAY_S and not _is_awaited(store, tenant, adapter_id)
        except CorruptArtifact:
            return False  # a newer version's, perhaps
        try:
            job = store.get(maker, tenant=tenant)
        except NotFound:
            return False  # Redis may have been lost: what is complete is never deleted for that
        if not job.status.terminal:
            return False
        unwanted = job.status is JobStatus.CANCELLED and job.result.get("adapter_id") != adapter_id
        if not unwanted:
            settled.add(prefix)
        return unwanted

    return sweep(models, _ADAPTERS, unneeded)


def _is_awaited(store: JobStore, tenant: str, adapter_id: str) -> bool:
    return any(job.tenant == tenant and job.spec.get("adapter_id") == adapter_id for job in store.active())


def sweep_work_dir(store: JobStore, work_dir: Path) -> int:
    """Delete the scratch of jobs that were cut short on this node and have ended since; return how many.

    Other trainers may write there as well, so that of a job that may yet go on is left alone. Where nobody
    knows the job, it may be another deployment's: nothing must have moved for a day.
    """
    swept = 0
    for folder in work_dir.iterdir() if work_dir.is_dir() else ():
        if not any(ids.is_object_id(folder.name, kind) for kind in (JobKind.TRAINING, JobKind.EXPORT)):
            continue
        try:
            unneeded = _is_ended(store, folder)
        except ValidationError:
            _log.warning("job_record_not_understood", job_id=folder.name)
            continue
        except FileNotFoundError:
            continue  # its own worker was quicker
        if unneeded:
            shutil.rmtree(folder, ignore_errors=True)
            swept += 1
    return swept


def _is_ended(store: JobStore, scratch: Path) -> bool:
    try:
        return store.get(scratch.name).status.terminal
    except NotFound:
        newest = max(path.lstat().st_mtime for path in (scratch, *scratch.rglob("*")))
        return time.time() - newest > _DAY_S

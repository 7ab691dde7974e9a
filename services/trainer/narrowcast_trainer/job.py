"""A training job as the worker sees it: check, train in a process of its own, tidy up."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from narrowcast import logs
from narrowcast.adapters import adapter_prefix, checkpoint_prefix
from narrowcast.artifacts import discard
from narrowcast.errors import Conflict, NarrowcastError, Unavailable
from narrowcast.jobs.heartbeat import Heartbeat
from narrowcast.jobs.records import LeaseLost
from narrowcast.jobs.running import Cancelled, RunningJob, ends_job
from narrowcast.settings import JobSettings
from narrowcast.storage import Bucket
from narrowcast.training import TrainingSpec
from narrowcast_trainer.gpu import gpu_to_ourselves
from narrowcast_trainer.patience import patiently
from narrowcast_trainer.process import OutOfMemory, Supervision
from narrowcast_trainer.protocol import TaskName, TrainingOrder
from narrowcast_trainer.publish import published_result
from narrowcast_trainer.settings import TrainerSettings

_log = logs.get(__name__)


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
        lost_attempts=job.lost_attempts,
    )
    heartbeat = Heartbeat(settings.trainer.heartbeat_file)
    with _tidied(running, order, models, settings.jobs), heartbeat.busy():
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
        if not running.job.keep_checkpoint:  # its user has given it up meanwhile
            running.event("the adapter that was to be kept is given up")
            return None
        return result
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
    running: RunningJob, order: TrainingOrder, models: Bucket, settings: JobSettings
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
        if ends_job(running.job, error, settings, time.time()):
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
        _log.warning("not_discarded", prefix=prefix, exc_info=True)  # later: its sweep

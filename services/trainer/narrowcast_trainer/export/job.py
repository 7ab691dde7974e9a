"""An export as the worker sees it: run it in a process of its own, tidy up. It takes no GPU."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from narrowcast import logs
from narrowcast.artifacts import discard
from narrowcast.errors import NarrowcastError, Unavailable
from narrowcast.exports import ExportSpec, export_prefix
from narrowcast.jobs.heartbeat import Heartbeat
from narrowcast.jobs.records import LeaseLost
from narrowcast.jobs.running import Cancelled, RunningJob, ends_job
from narrowcast.settings import JobSettings
from narrowcast.storage import Bucket
from narrowcast_trainer.export.order import ExportOrder
from narrowcast_trainer.process import Supervision
from narrowcast_trainer.settings import TrainerSettings

_log = logs.get(__name__)
_EXPORTS = "exports/"


def export(running: RunningJob, models: Bucket, settings: TrainerSettings) -> dict[str, Any]:
    """Run one export; see :meth:`Supervision.run` for how it may end.

    It leaves the published export if it succeeded, else nothing. An attempt begins anew what an
    earlier one left half done.
    """
    job = running.job
    order = ExportOrder(
        job_id=job.id,
        tenant=job.tenant,
        spec=ExportSpec.model_validate(job.spec),
        settings=settings.trainer,
        storage=settings.storage,
        hub=settings.hub,
        log_level=settings.log_level,
    )
    heartbeat = Heartbeat(settings.trainer.heartbeat_file)
    with _tidied(running, order, models, settings.jobs), heartbeat.busy():
        if running.cancelled.is_set():
            raise Cancelled
        return Supervision(running, order, heartbeat.beat).run()


@contextmanager
def _tidied(running: RunningJob, order: ExportOrder, models: Bucket, settings: JobSettings) -> Iterator[None]:
    try:
        yield
    except LeaseLost:
        raise  # what is there belongs to another
    except Cancelled:
        _discard(models, order)
        raise
    except NarrowcastError as error:
        if ends_job(running.job, error, settings, time.time()):
            _discard(models, order)
        raise
    finally:
        if not running.is_lost():  # else another trainer of this node may write there by now
            shutil.rmtree(order.settings.work_dir / order.job_id, ignore_errors=True)


def _discard(models: Bucket, order: ExportOrder) -> None:
    prefix = export_prefix(order.tenant, order.job_id)
    try:
        discard(models, prefix)
    except Unavailable:
        _log.warning("not_discarded", prefix=prefix, exc_info=True)  # later: its sweep

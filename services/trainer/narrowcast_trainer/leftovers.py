"""What jobs have left in S3 and on this node's disk: deleted once nobody needs it.

A job tidies up after itself. This is for those that could not: their worker was lost, or they had none.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from narrowcast import ids, logs
from narrowcast.adapters import ADAPTERS, AdapterManifest, adapter_prefix, checkpoint_prefix
from narrowcast.artifacts import MANIFEST, CorruptArtifact, discard, read_manifest
from narrowcast.deletions import DeletedAdapters
from narrowcast.errors import NotFound
from narrowcast.exports import export_prefix
from narrowcast.jobs.records import JobKind, JobStatus
from narrowcast.jobs.store import JobStore
from narrowcast.storage import Bucket

_log = logs.get(__name__)
_CHECKPOINTS: Final = "checkpoints/"
_EXPORTS: Final = "exports/"
_DAY_S: Final = 24 * 3600.0
_UNKNOWN_KEPT_S: Final = 30 * _DAY_S
"""How long checkpoints of a job that nobody knows are kept: Redis may come back from a backup."""


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

    return _sweep(models, _CHECKPOINTS, unneeded)


def sweep_adapters(
    store: JobStore, models: Bucket, deleted: DeletedAdapters, settled: set[str] | None = None
) -> int:
    """Delete adapters of jobs that were cancelled without them, and halves of adapters; return how many.

    And what is left of those that their users have deleted.

    A worker may be lost between publishing an adapter and saying so. If the job's user cancels it then, the
    adapter is what nobody wanted, but it would be served. Where a reaper ends the job, as it was its last
    attempt, the adapter stays: it is whole and was tried out. Jobs that have succeeded since look like that
    after Redis was restored from a backup.

    Args:
        store: knows the jobs.
        models: holds the adapters.
        deleted: by their users.
        settled: prefixes of those that stay. They are added here, and not looked at again: each would take
            a job's record, of most from the object store.

    Raises:
        Unavailable: the object store does not answer.
    """
    settled = set() if settled is None else settled

    def unneeded(tenant: str, adapter_id: str) -> bool:
        prefix = adapter_prefix(tenant, adapter_id)
        if deleted.has(tenant, adapter_id):
            return True
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

    return _sweep(models, ADAPTERS, unneeded)


def _is_awaited(store: JobStore, tenant: str, adapter_id: str) -> bool:
    return any(job.tenant == tenant and job.spec.get("adapter_id") == adapter_id for job in store.active())


def sweep_exports(store: JobStore, models: Bucket) -> int:
    """Delete what exports that came to nothing have left; return how many.

    A job cancelled between two attempts, or failed by a reaper, has no worker to do it.

    Raises:
        Unavailable: the object store does not answer.
    """

    def unneeded(tenant: str, export_id: str) -> bool:
        try:
            status = store.get(export_id).status
        except NotFound:
            # Redis may have been lost: what is complete is never deleted for that.
            return not models.exists(export_prefix(tenant, export_id) + MANIFEST)
        return status.terminal and status is not JobStatus.SUCCEEDED

    return _sweep(models, _EXPORTS, unneeded)


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


def _sweep(models: Bucket, root: str, unneeded: Callable[[str, str], bool]) -> int:
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

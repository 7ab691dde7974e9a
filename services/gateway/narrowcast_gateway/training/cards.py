"""The training card of a job: its adapter's, or what is known of a training that failed."""

from narrowcast.artifacts import read_file, read_manifest
from narrowcast.cards import FailedCardManifest, failed_card_prefix
from narrowcast.errors import NotFound
from narrowcast.jobs.records import JobKind, JobStatus
from narrowcast.jobs.store import JobStore
from narrowcast.storage import Bucket
from narrowcast_gateway.adapters.service import Adapters


class JobCards:
    """Finds and reads them."""

    def __init__(self, jobs: JobStore, adapters: Adapters, data: Bucket) -> None:
        self._jobs = jobs
        self._adapters = adapters
        self._data = data

    def file(self, tenant: str, job_id: str, name: str) -> bytes:
        """Return a file of a job's training card (see :mod:`narrowcast.cards`), verified.

        Raises:
            NotFound: the tenant has no such training job; or ``no_training_card``: it has not ended, came
                to no step, or was cancelled without a checkpoint kept.
        """
        job = self._jobs.get(job_id, tenant=tenant, kind=JobKind.TRAINING)
        if adapter_id := job.result.get("adapter_id"):
            return self._adapters.card_file(tenant, adapter_id, name)
        missing = NotFound(f"{job_id} has no training card", code="no_training_card")
        if job.status is not JobStatus.FAILED:
            raise missing
        prefix = failed_card_prefix(tenant, job_id)
        try:
            return read_file(self._data, prefix, read_manifest(self._data, prefix, FailedCardManifest), name)
        except NotFound:
            raise missing from None

"""Result files in OpenAI's sense: the table of a training's steps.

Each is a file of the adapter that the job has published. Its id is the job's own with another
prefix, so nothing has to be kept to find it, and it goes when the adapter goes.
"""

from dataclasses import dataclass

from narrowcast import ids
from narrowcast.adapters import AdapterManifest
from narrowcast.cards import STEP_METRICS
from narrowcast.errors import NotFound
from narrowcast.jobs.records import JobKind
from narrowcast.jobs.store import JobStore
from narrowcast_gateway.adapters.service import Adapters
from narrowcast_gateway.datasets.service import FILE


def result_file_id(job_id: str) -> str:
    """Return the id of a job's result file."""
    return job_id.replace(JobKind.TRAINING, FILE, 1)


@dataclass(frozen=True)
class ResultFile:
    """What is told of one."""

    id: str
    size: int
    created_at: float
    tenant: str
    adapter_id: str


class ResultFiles:
    """Finds and reads them."""

    def __init__(self, jobs: JobStore, adapters: Adapters) -> None:
        self._jobs = jobs
        self._adapters = adapters

    def get(self, tenant: str, file_id: str) -> ResultFile:
        """Return a result file's description.

        Raises:
            NotFound: there is no training job of the tenant that has this file.
        """
        missing = NotFound("no such dataset or file")
        if not ids.is_object_id(file_id, FILE):
            raise missing
        try:
            job_id = file_id.replace(FILE, JobKind.TRAINING, 1)
            job = self._jobs.get(job_id, tenant=tenant, kind=JobKind.TRAINING)
            return _described(self._adapters.get(tenant, job.result["adapter_id"]))
        except (NotFound, KeyError):
            raise missing from None

    def listing(self, tenant: str) -> list[ResultFile]:
        """Return those of the tenant's adapters, newest first."""
        return [
            _described(manifest)
            for manifest in self._adapters.of_tenant(tenant)
            if STEP_METRICS in manifest.files
        ]

    def content(self, file: ResultFile) -> bytes:
        """Return the CSV.

        Raises:
            NotFound: its adapter has been deleted.
        """
        return self._adapters.card_file(file.tenant, file.adapter_id, STEP_METRICS)


def _described(manifest: AdapterManifest) -> ResultFile:
    size = manifest.files[STEP_METRICS].size
    return ResultFile(result_file_id(manifest.job), size, manifest.created_at, manifest.tenant, manifest.id)

"""Datasets in the data bucket. Uploaded files are datasets too, under a ``file-`` id."""

from functools import lru_cache

from narrowcast import ids
from narrowcast.artifacts import discard, publish, read_file, read_manifest
from narrowcast.datasets import DatasetManifest, Row, SplitName, dataset_prefix, from_jsonl, split_file
from narrowcast.errors import Conflict, NotFound
from narrowcast.jobs.store import JobStore
from narrowcast.storage import Bucket

DATASET = "dataset"
FILE = "file"
_CACHED_MANIFESTS = 16_384
"""Of all tenants; a kilobyte or two each. A listing of more than it holds would find none of them in it."""
_NAMED_IN = ("dataset", "validation_dataset")
"""Fields of trainings' and evaluations' specs."""


class Datasets:
    """Reads, lists, writes and deletes datasets of one tenant at a time."""

    def __init__(self, bucket: Bucket, jobs: JobStore) -> None:
        self._bucket = bucket
        self._jobs = jobs

        @lru_cache(maxsize=_CACHED_MANIFESTS)
        def read(tenant: str, dataset_id: str) -> DatasetManifest:
            return read_manifest(self._bucket, dataset_prefix(tenant, dataset_id), DatasetManifest)

        self._read = read
        """For listings: the store says which datasets there are, and a manifest never changes."""

    def write(self, manifest: DatasetManifest, files: dict[str, bytes]) -> DatasetManifest:
        """Publish a dataset."""
        return publish(self._bucket, dataset_prefix(manifest.tenant, manifest.id), files, manifest)

    def get(self, tenant: str, dataset_id: str, *, param: str | None = None) -> DatasetManifest:
        """Return a dataset's manifest.

        Raises:
            NotFound: the tenant has no such dataset or file; ``param`` names who asked for it.
        """
        missing = NotFound("no such dataset or file", param=param)
        if not (ids.is_object_id(dataset_id, DATASET) or ids.is_object_id(dataset_id, FILE)):
            raise missing
        try:
            return read_manifest(self._bucket, dataset_prefix(tenant, dataset_id), DatasetManifest)
        except NotFound:
            raise missing from None

    def rows(self, manifest: DatasetManifest, split: SplitName) -> list[Row]:
        """Return one split's rows; none if the dataset has no such split."""
        if split_file(split) not in manifest.files:
            return []
        return list(from_jsonl(self.file(manifest, split_file(split))))

    def file(self, manifest: DatasetManifest, name: str) -> bytes:
        """Return one of the dataset's files, verified."""
        return read_file(self._bucket, dataset_prefix(manifest.tenant, manifest.id), manifest, name)

    def listing(self, tenant: str, prefix: str) -> list[DatasetManifest]:
        """Return the tenant's datasets (or files) by the prefix of their ids, newest first.

        One that could not be deleted as a whole may be among them until its deletion is asked for again.
        """
        manifests = []
        for dataset_id in self._bucket.folders(f"datasets/{tenant}/"):
            if ids.is_object_id(dataset_id, prefix):
                try:
                    manifests.append(self._read(tenant, dataset_id))
                except NotFound:
                    continue  # no manifest yet: still being written
        return sorted(manifests, key=lambda manifest: manifest.created_at, reverse=True)

    def delete(self, tenant: str, dataset_id: str) -> None:
        """Delete a dataset: its manifest first, so that nobody reads half of one.

        Raises:
            NotFound: the tenant has no such dataset.
            Conflict: ``dataset_in_use``, a job that has not ended names it. One that has trained for hours
                could neither go on nor keep its checkpoint.
            Unavailable: the object store failed; trying again is safe and deletes what is left.
        """
        try:
            self.get(tenant, dataset_id)
        except NotFound:
            known = ids.is_object_id(dataset_id, DATASET) or ids.is_object_id(dataset_id, FILE)
            if known and discard(self._bucket, dataset_prefix(tenant, dataset_id)):
                return  # the rest of one that could not be deleted at once
            raise
        for job in self._jobs.active():
            if job.tenant == tenant and dataset_id in {job.spec.get(name) for name in _NAMED_IN}:
                raise Conflict(
                    f"job {job.id}, which reads it, has not ended; cancel it first", code="dataset_in_use"
                )
        discard(self._bucket, dataset_prefix(tenant, dataset_id))

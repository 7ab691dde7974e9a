"""Accepts export jobs, hands out their files."""

from collections.abc import Iterator
from dataclasses import dataclass

from narrowcast import ids
from narrowcast.artifacts import FileEntry, discard, read_manifest
from narrowcast.errors import Conflict, NotFound
from narrowcast.exports import ExportManifest, ExportRequest, ExportSpec, export_prefix
from narrowcast.jobs.once import Once
from narrowcast.jobs.records import Job, JobKind
from narrowcast.jobs.store import JobStore
from narrowcast.storage import Bucket
from narrowcast_gateway.adapters.service import Adapters


@dataclass(frozen=True)
class StoredFile:
    """A file of an export, where it lies."""

    bucket: Bucket
    key: str
    entry: FileEntry

    def read(self, start: int, length: int) -> Iterator[bytes]:
        """Yield ``length`` bytes from ``start`` on."""
        return self.bucket.stream(self.key, start, length)


class Exports:
    """A tenant's exports."""

    def __init__(self, jobs: JobStore, models: Bucket, adapters: Adapters) -> None:
        self._jobs = jobs
        self._models = models
        self._adapters = adapters

    def create(self, tenant: str, request: ExportRequest, once: Once | None = None) -> Job:
        """Submit an export, or return the one that the same request has made before.

        Raises:
            NotFound: the tenant has no such adapter.
        """
        if (earlier := self._jobs.submitted(JobKind.EXPORT, tenant, once)) is not None:
            return earlier
        manifest = self._adapters.get(tenant, request.adapter, param="adapter")
        spec = ExportSpec(**request.model_dump(), base_model=manifest.base.name)
        job = Job(
            id=ids.new_id(JobKind.EXPORT),
            kind=JobKind.EXPORT,
            tenant=tenant,
            spec=spec.model_dump(mode="json"),
        )
        return self._jobs.submit(job, once)

    def get(self, tenant: str, export_id: str) -> Job:
        """Return an export's job.

        Raises:
            NotFound: the tenant has no such export.
        """
        return self._jobs.get(export_id, tenant=tenant, kind=JobKind.EXPORT)

    def page(self, tenant: str, after: str | None, limit: int) -> tuple[list[Job], bool]:
        """Return exports, newest first, and whether more follow."""
        return self._jobs.page(JobKind.EXPORT, tenant, after=after, limit=limit)

    def cancel(self, tenant: str, export_id: str) -> Job:
        """Stop an export.

        Raises:
            NotFound: the tenant has no such export.
            Conflict: it has ended.
        """
        self.get(tenant, export_id)
        return self._jobs.request_cancel(export_id)

    def delete(self, tenant: str, export_id: str) -> None:
        """Delete an ended export with its files. What was pushed to a hub stays there.

        Raises:
            NotFound: the tenant has no such export.
            Conflict: ``export_not_ended``.
        """
        if not self.get(tenant, export_id).status.terminal:
            raise Conflict(f"export {export_id} has not ended; cancel it first", code="export_not_ended")
        prefix = export_prefix(tenant, export_id)
        discard(self._models, prefix)  # the record last: until then this can be repeated
        self._jobs.forget(export_id)

    def file(self, tenant: str, export_id: str, name: str) -> StoredFile:
        """Return a file of a finished export.

        Raises:
            NotFound: the tenant has no such export, it has not succeeded, or it has no such file.
        """
        self.get(tenant, export_id)
        prefix = export_prefix(tenant, export_id)
        try:
            entry = read_manifest(self._models, prefix, ExportManifest).files[name]
        except (NotFound, KeyError):
            # The name is the caller's text: not repeated.
            raise NotFound(f"export {export_id} has no such file", param="name") from None
        return StoredFile(self._models, prefix + name, entry)

"""Exports on the wire."""

from typing import Literal

from pydantic import BaseModel

from narrowcast.exports import ExportFormat, ExportRequest, ExportSpec, Quantization
from narrowcast.jobs.records import Job
from narrowcast_gateway.schemas import ErrorDetail, job_times


class CreateExport(ExportRequest):
    """A request for an export."""


class ExportFile(BaseModel):
    """A file of a finished export."""

    name: str
    """To download it: `GET /v1/exports/{export_id}/files/{name}`."""
    size: int
    sha256: str


class Export(BaseModel):
    """An export, as far as it is."""

    id: str
    object: Literal["export"] = "export"
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    adapter: str
    base_model: str
    format: ExportFormat
    quantization: Quantization | None
    step: str | None
    """What is being done while it runs."""
    error: ErrorDetail | None
    files: list[ExportFile]
    """Empty until it has succeeded."""
    hub_url: str | None
    """Of the repository, once it was pushed to one."""

    @classmethod
    def of(cls, job: Job) -> "Export":
        """Return the record as the wire shows it."""
        # Without the destination, which is not shown: names that are refused today were once accepted.
        spec = ExportSpec.model_validate(job.spec | {"push_to_hub": None})
        files = job.result.get("files", {})
        return cls(
            id=job.id,
            **job_times(job),
            status=job.status.value,
            adapter=spec.adapter,
            base_model=spec.base_model,
            format=spec.format,
            quantization=spec.quantization,
            step=None if job.status.terminal else job.progress.get("step"),
            error=ErrorDetail.of(job.error),
            files=[ExportFile(name=name, **entry) for name, entry in files.items()],
            hub_url=job.result.get("hub_url"),
        )

"""Corpora on the wire."""

from typing import Literal

from pydantic import BaseModel

from narrowcast.jobs.records import Job
from narrowcast_gateway.corpora.service import PreprocessingSpec
from narrowcast_gateway.schemas import ErrorDetail, job_times


class RejectedDocument(BaseModel):
    """A document that gave no row."""

    document: str
    """Its place in the upload; the answer to the upload has its file name."""
    sha256: str | None
    """Of the file's bytes, to find it again."""
    code: str
    message: str


class CorpusCounts(BaseModel):
    """How far preprocessing is."""

    total: int
    read: int = 0
    """Documents that gave a row."""
    rejected: int = 0


class Corpus(BaseModel):
    """A corpus on its way to a dataset."""

    id: str
    object: Literal["corpus"] = "corpus"
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    documents: CorpusCounts
    dataset: str | None
    """The dataset's id once preprocessing has succeeded."""
    redactions: dict[str, int]
    """How many pieces of personal data were removed, by kind."""
    rejected: list[RejectedDocument]
    error: ErrorDetail | None

    @classmethod
    def of(cls, job: Job) -> "Corpus":
        """Return the record as the wire shows it."""
        spec = PreprocessingSpec.model_validate(job.spec)
        counts = job.result.get("documents") or job.progress
        return cls(
            id=job.id,
            status=job.status.value,
            **job_times(job),
            documents=CorpusCounts(**{"total": spec.documents, **counts}),
            dataset=job.result.get("dataset"),
            redactions=job.result.get("redactions", {}),
            rejected=job.result.get("rejected") or job.progress.get("rejections", []),
            error=ErrorDetail.of(job.error),
        )


class UploadedDocument(BaseModel):
    """Which document a file became."""

    document: str
    filename: str


class CreatedCorpus(Corpus):
    """The answer to an upload: the only place where file names appear, for they are not kept."""

    uploaded: list[UploadedDocument]

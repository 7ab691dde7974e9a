"""Shapes that several nouns share."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel

from narrowcast.jobs.records import Job, JobError

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """A page of a listing, in OpenAI's form."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class Deleted(BaseModel):
    """The answer to a deletion."""

    id: str
    object: str
    deleted: Literal[True] = True


class ErrorDetail(BaseModel):
    """Why something failed."""

    code: str
    message: str
    param: str | None = None

    @classmethod
    def of(cls, error: JobError | None) -> "ErrorDetail | None":
        """Return a job's error as the wire shows it."""
        return cls(**error.model_dump()) if error else None


class ErrorObject(BaseModel):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """What every 4xx and 5xx answers."""

    error: ErrorObject


def seconds(moment: float | None) -> int | None:
    """Return a Unix time in whole seconds, as OpenAI's objects have it."""
    return None if moment is None else int(moment)


def job_times(job: Job) -> dict[str, int | None]:
    """Return the times that every job-like object shows."""
    return {
        "created_at": seconds(job.created_at),
        "started_at": seconds(job.started_at),
        "finished_at": seconds(job.finished_at),
    }

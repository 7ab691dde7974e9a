"""Shapes that several nouns share."""

from typing import Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ValidationInfo, field_validator

from narrowcast.jobs.records import Job, JobError

T = TypeVar("T")


class WithNumbers(BaseModel):
    """A request in which JSON's true and false are no numbers, though in Python they are 1 and 0."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: Any, info: ValidationInfo) -> Any:
        if _takes_numbers(cls.model_fields[info.field_name or ""].annotation):
            refuse_truth_values(value)
        return value


def _takes_numbers(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_takes_numbers, get_args(annotation)))


def refuse_truth_values(value: Any) -> None:
    """Raise ValueError where there is one, however deep."""
    if isinstance(value, bool):
        raise ValueError("true and false are no numbers here")  # noqa: TRY004 - pydantic's errors are these
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in within:
        refuse_truth_values(part)


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

"""Evaluations on the wire, in the job record and in S3."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from narrowcast.artifacts import Manifest
from narrowcast.datasets import SplitName
from narrowcast.jobs.records import Job
from narrowcast_gateway.evaluation.rouge import RougeScore
from narrowcast_gateway.schemas import ErrorDetail, WithNumbers, job_times

BASELINE = "nearest-report"


class CreateEvaluation(WithNumbers):
    """A request for an evaluation."""

    model_config = ConfigDict(extra="forbid")

    dataset: str
    models: Annotated[list[str], Field(min_length=1, max_length=16)]
    """Base models and adapters; the nearest-report baseline always runs beside them."""
    split: SplitName = "test"
    max_rows: int | None = Field(None, ge=1)
    """Only the first so many rows of the split."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer; by default what the model's context leaves."""


class EvaluationSpec(CreateEvaluation):
    """The ``spec`` of an evaluation job's record."""


class ContestantResult(BaseModel):
    """How one model, or the baseline, did."""

    model: str
    kind: Literal["base", "adapter", "baseline"]
    rouge: dict[str, RougeScore]
    truncated: int
    """Answers that were cut at the length limit."""
    seconds: float


class EvaluationManifest(Manifest):
    """An evaluation's numbers; its answers lie beside it in ``predictions.jsonl``."""

    dataset: str
    split: SplitName
    rows: int
    tokenizer: str
    results: list[ContestantResult]


class Evaluation(BaseModel):
    """An evaluation, as far as it is."""

    id: str
    object: Literal["evaluation"] = "evaluation"
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    dataset: str
    split: SplitName
    models: list[str]
    progress: dict[str, JsonValue]
    """`done` and `total` answers."""
    error: ErrorDetail | None
    rows: int | None = None
    tokenizer: str | None = None
    """How texts are split into tokens for ROUGE; figures of different tokenizers do not compare."""
    results: list[ContestantResult] | None = None

    @classmethod
    def of(cls, job: Job) -> "Evaluation":
        """Return the record as the wire shows it."""
        spec = EvaluationSpec.model_validate(job.spec)
        return cls(
            id=job.id,
            **job_times(job),
            status=job.status.value,
            dataset=spec.dataset,
            split=spec.split,
            models=spec.models,
            progress=job.progress,
            error=ErrorDetail.of(job.error),
            **job.result,
        )

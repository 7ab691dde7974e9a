"""``/v1/fine_tuning`` on the wire: OpenAI's objects, with our hyper-parameters beside theirs."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from narrowcast.jobs.records import Job, JobEvent
from narrowcast.training import EngineName, LinearKind, QuantizationName, SchedulerName, TrainingSpec
from narrowcast_gateway.schemas import ErrorDetail, job_times


def _auto_is_unset(value: Any) -> Any:
    return None if value == "auto" else value


class HyperparametersRequest(BaseModel):
    """OpenAI's three and ours; what is left out or `"auto"` takes the default."""

    model_config = ConfigDict(extra="forbid")

    n_epochs: Annotated[int | None, BeforeValidator(_auto_is_unset)] = None
    batch_size: Annotated[int | None, BeforeValidator(_auto_is_unset)] = None
    learning_rate_multiplier: Annotated[float | None, BeforeValidator(_auto_is_unset)] = None
    learning_rate: float | None = None
    rank: int | None = None
    alpha: int | None = None
    """Left out, it is the rank."""
    dropout: float | None = None
    target_modules: Literal["all-linear"] | list[LinearKind] | None = None
    """All linear layers but the output layer, or some of the seven kinds."""
    scheduler: SchedulerName | None = None
    warmup_ratio: float | None = None
    weight_decay: float | None = None
    max_length: int | None = None
    """Tokens of prompt and answer together; a longer row fails the job."""
    early_stopping_patience: int | None = None
    """Epochs without a lower validation loss after which to stop; 0 never stops early."""
    seed: int | None = None
    """The request's own `seed` goes before it."""
    engine: EngineName | None = None
    quantization: QuantizationName | None = None
    """Of the base while it is trained on; `"auto"`: `nf4` on CUDA, `none` on a CPU."""


class SupervisedMethod(BaseModel):
    """The one method there is."""

    model_config = ConfigDict(extra="forbid")

    hyperparameters: HyperparametersRequest = HyperparametersRequest()


class Method(BaseModel):
    """How to train."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["supervised"]
    supervised: SupervisedMethod = SupervisedMethod()


class CreateFineTuningJob(BaseModel):
    """A request for a job."""

    model_config = ConfigDict(extra="forbid")

    model: str
    training_file: str
    """A file id or a dataset id."""
    validation_file: str | None = None
    """Its rows are evaluated while training; a dataset's own validation split is the default."""
    suffix: str | None = Field(None, pattern="^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$")
    """Begins the adapter's id."""
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    method: Method | None = None
    hyperparameters: HyperparametersRequest | None = None
    """OpenAI's older place for them; `method` is the newer."""


class FineTuningJob(BaseModel):
    """OpenAI's fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    started_at: int | None
    finished_at: int | None
    estimated_finish: int | None
    error: ErrorDetail | None
    fine_tuned_model: str | None
    hyperparameters: dict[str, JsonValue]
    method: dict[str, JsonValue]
    model: str
    organization_id: str
    result_files: list[str] = []
    seed: int
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    progress: dict[str, JsonValue]
    """`step`, `total_steps`, `tokens_per_s`, `eta_s` while it runs."""
    metrics: dict[str, float]
    """What the finished run measured."""

    @classmethod
    def of(cls, job: Job) -> "FineTuningJob":
        """Return the record as the wire shows it."""
        spec = TrainingSpec.model_validate(job.spec)
        hyperparameters = spec.hyperparameters.model_dump(mode="json", exclude={"seed"})
        eta = job.progress.get("eta_s") if job.status == "running" else None
        reported_at = job.progress.get("at")
        return cls(
            id=job.id,
            **job_times(job),
            estimated_finish=int(reported_at + eta) if eta is not None and reported_at is not None else None,
            error=ErrorDetail.of(job.error),
            fine_tuned_model=job.result.get("adapter_id"),
            hyperparameters=hyperparameters,
            method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
            model=spec.base_model,
            organization_id=job.tenant,
            seed=spec.hyperparameters.seed,
            status=job.status.value,
            trained_tokens=job.result.get("trained_tokens"),
            training_file=spec.dataset,
            validation_file=spec.validation_dataset,
            progress=job.progress,
            metrics=job.result.get("metrics", {}),
        )


class FineTuningEvent(BaseModel):
    """OpenAI's event."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, JsonValue]

    @classmethod
    def of(cls, event: JobEvent) -> "FineTuningEvent":
        """Return the event as the wire shows it."""
        return cls(**event.model_dump(exclude={"created_at"}), created_at=int(event.created_at))


def merge(request: CreateFineTuningJob) -> dict[str, Any]:
    """Return the hyper-parameters that the request sets, wherever it sets them."""
    merged: dict[str, Any] = {}
    if request.hyperparameters is not None:
        merged |= request.hyperparameters.model_dump(exclude_none=True)
    if request.method is not None:
        merged |= request.method.supervised.hyperparameters.model_dump(exclude_none=True)
    if request.seed is not None:
        merged["seed"] = request.seed
    return merged

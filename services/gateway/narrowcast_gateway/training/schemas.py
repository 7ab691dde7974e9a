"""``/v1/fine_tuning`` on the wire: OpenAI's objects, with our hyper-parameters beside theirs."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)

from narrowcast.checkpoints import CheckpointManifest
from narrowcast.errors import NarrowcastError
from narrowcast.jobs.records import Job, JobEvent
from narrowcast.jobs.schedule import HIGHEST_PRIORITY, MOST_ATTEMPTS, RunWindow, Schedule, iana_zones
from narrowcast.sweeps import SearchSpace, Trial
from narrowcast.training import (
    LINEAR_KINDS,
    EngineName,
    Hyperparameters,
    LinearKind,
    QuantizationName,
    SchedulerName,
    TrainingSpec,
)
from narrowcast_gateway.schemas import ErrorDetail, WithNumbers, job_times, refuse_truth_values, seconds
from narrowcast_gateway.training.results import result_file_id
from narrowcast_gateway.training.service import HYPERPARAMETERS

_MAY_BE_AUTO: Final = ("n_epochs", "batch_size", "learning_rate_multiplier")
_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_LONGEST_WAIT_S: Final = 366 * 86_400
_RFC_3339: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:")
_SUFFIX: Final = "^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$"


def _auto_is_unset(value: Any) -> Any:
    return None if value == "auto" else value


def _said_at_once(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Say what is wrong with the whole, where pydantic would of each thing that it may be."""
    try:
        checked = check(value)
    except ValidationError:
        checked = []
    if checked == [] or (isinstance(checked, list) and len(set(checked)) < len(checked)):
        raise ValueError(f'"all-linear", or a list of some of {", ".join(LINEAR_KINDS)}, each once')
    return checked


def _with_bounds(schema: dict[str, Any]) -> None:
    """Say in the OpenAPI document what the domain allows, and takes for what is left out."""
    domain = Hyperparameters.model_json_schema()["properties"]
    for name, field in schema["properties"].items():
        known = domain[name]
        for number in field.get("anyOf", []):
            if number.get("type") in {"integer", "number"}:
                number.update({bound: known[bound] for bound in _BOUNDS if bound in known})
        if name in _MAY_BE_AUTO:
            field["anyOf"].append({"type": "string", "const": "auto"})
        if known.get("default") is not None and name != "alpha":
            said = [field["description"]] if "description" in field else []
            field["description"] = " ".join([*said, f"Default: {json.dumps(known['default'])}."])


def _no_bare_number(value: Any) -> Any:
    # Pydantic would take "2026" for that second of 1970; what follows the hour it checks itself.
    if isinstance(value, str) and not _RFC_3339.match(value):
        raise ValueError(
            "Unix seconds as a number, or RFC 3339 with an offset, such as 2026-11-22T20:00:00+03:00"
        )
    return value


def _in_an_iana_zone(window: RunWindow | None) -> RunWindow | None:
    if window is not None and window.time_zone not in iana_zones():
        raise ValueError("time_zone is no IANA name such as Europe/Moscow")
    return window


def _within_a_year(value: datetime | None) -> datetime | None:
    if value is None:
        return None
    if value.timestamp() < 0:
        raise ValueError("before 1970")
    if value.timestamp() > time.time() + _LONGEST_WAIT_S:
        raise ValueError("more than a year ahead")
    return value


def _begins_an_id(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(_SUFFIX, value):
        raise ValueError("up to 40 lower-case letters a-z, digits and hyphens, with no hyphen at either end")
    return value


class HyperparametersRequest(WithNumbers):
    """OpenAI's three, which may be `"auto"`, and ours; what is left out takes the default."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_with_bounds)

    n_epochs: Annotated[int | None, BeforeValidator(_auto_is_unset)] = None
    batch_size: Annotated[int | None, BeforeValidator(_auto_is_unset)] = None
    micro_batch: int | None = None
    """Rows that go through the model at once, at most, for memory; the step is still of `batch_size`."""
    learning_rate_multiplier: Annotated[float | None, BeforeValidator(_auto_is_unset)] = None
    learning_rate: float | None = None
    rank: int | None = None
    alpha: int | None = None
    """Left out, it is the rank."""
    dropout: float | None = None
    target_modules: Annotated[
        Literal["all-linear"] | list[LinearKind] | None, WrapValidator(_said_at_once)
    ] = None
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
    n_trials: int | None = None
    """Above 1: a sweep of so many runs in one job, which publishes the one of the lowest validation loss."""
    sweep: SearchSpace | None = None
    """What they vary; left out, the learning rate, the rank and the dropout around the job's own."""

    @field_validator("sweep", mode="before")
    @classmethod
    def _no_truth_value_within(cls, sweep: Any) -> Any:
        if isinstance(sweep, dict):
            # What is no field of it is refused for that.
            refuse_truth_values([sweep[name] for name in SearchSpace.model_fields if name in sweep])
        return sweep


class SupervisedMethod(BaseModel):
    """The one method there is."""

    model_config = ConfigDict(extra="forbid")

    hyperparameters: HyperparametersRequest = HyperparametersRequest()


class Method(BaseModel):
    """How to train."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["supervised"]
    supervised: SupervisedMethod = SupervisedMethod()


class WithHyperparameters(WithNumbers):
    """A request that sets hyper-parameters, in either of OpenAI's places."""

    model_config = ConfigDict(extra="forbid")

    model: str
    method: Method | None = None
    hyperparameters: HyperparametersRequest | None = None
    """OpenAI's older place for them; `method` is the newer."""

    def given(self) -> dict[str, Any]:
        """Return those that it sets, wherever it sets them."""
        return self._older() | self._newer()

    def _older(self) -> dict[str, Any]:
        return self.hyperparameters.model_dump(exclude_none=True) if self.hyperparameters else {}

    def _newer(self) -> dict[str, Any]:
        return self.method.supervised.hyperparameters.model_dump(exclude_none=True) if self.method else {}

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Let the errors of a service name a hyper-parameter by the place where the request has it."""
        try:
            yield
        except NarrowcastError as error:
            place = error.param or ""
            name = place.removeprefix(HYPERPARAMETERS)
            if name != place and name.partition(".")[0] in self._newer():
                error.param = f"method.supervised.{HYPERPARAMETERS}{name}"
            raise


class CreateFineTuningJob(WithHyperparameters):
    """A request for a job."""

    training_file: str
    """A file id or a dataset id."""
    validation_file: str | None = None
    """Its rows are evaluated while training; a dataset's own validation split is the default."""
    suffix: Annotated[str | None, AfterValidator(_begins_an_id)] = Field(
        None, json_schema_extra={"pattern": _SUFFIX}
    )
    """Begins the adapter's id: 40 lower-case letters, digits and inner hyphens at most."""
    metadata: None = None
    """OpenAI's, which is not kept here: nothing but null."""
    integrations: None = None
    """OpenAI's; trackers are the site's to set."""
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    priority: int = Field(0, ge=-HIGHEST_PRIORITY, le=HIGHEST_PRIORITY)
    """Of a tenant's jobs the higher goes first; tenants take turns anyway. It stops nothing that runs."""
    not_before: Annotated[
        AwareDatetime | None, BeforeValidator(_no_bare_number), AfterValidator(_within_a_year)
    ] = None
    """Unix seconds, or RFC 3339 with an offset: the job waits until then, a year at most."""
    run_window: Annotated[RunWindow | None, AfterValidator(_in_an_iana_zone)] = None
    """Train at these hours only, for instance at night; what has not ended by then goes on the next day."""
    max_attempts: int | None = Field(None, ge=1, le=MOST_ATTEMPTS)
    """Starts that may be lost to failures of machines; the site's setting is the default."""

    def given(self) -> dict[str, Any]:
        """Return the hyper-parameters that it sets, wherever it sets them."""
        return super().given() | ({} if self.seed is None else {"seed": self.seed})

    def schedule(self) -> Schedule:
        """Return when the job may run."""
        return Schedule(
            priority=self.priority,
            not_before=self.not_before.timestamp() if self.not_before else None,
            window=self.run_window,
            max_attempts=self.max_attempts,
        )


class CancelFineTuningJob(BaseModel):
    """How to cancel; OpenAI's clients send no body."""

    model_config = ConfigDict(extra="forbid")

    keep_checkpoint: bool = False
    """Publish the newest checkpoint as the job's adapter."""


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
    """The table of steps in OpenAI's columns, a CSV file; `/v1/files/{id}/content` gives it."""
    training_card: str | None
    """Path of the card of the adapter that the job has published."""
    seed: int
    status: Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
    trained_tokens: int | None
    training_file: str
    validation_file: str | None
    progress: dict[str, JsonValue]
    """`step`, `total_steps`, `tokens_per_s`, `eta_s` while it runs."""
    metrics: dict[str, float]
    """What the finished run measured; of a sweep, its best run."""
    trials: list[Trial]
    """The runs of a finished sweep."""
    best_trial: int | None
    """Number of the one whose adapter is published."""
    requested: Literal["pause", "cancel"] | None
    """What its trainer was asked for, and has yet to do."""
    priority: int
    not_before: int | None
    run_window: RunWindow | None
    max_attempts: int | None
    attempt: int
    """Starts that count so far: those that the user, the operator or the hours ended do not."""

    @classmethod
    def of(cls, job: Job) -> "FineTuningJob":
        """Return the record as the wire shows it."""
        spec = TrainingSpec.model_validate(job.spec)
        hyperparameters = spec.hyperparameters.model_dump(mode="json", exclude={"seed"}, exclude_none=True)
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
            result_files=[result_file_id(job.id)] if _has_card(job) else [],
            training_card=f"/v1/adapters/{job.result['adapter_id']}/card" if _has_card(job) else None,
            seed=spec.hyperparameters.seed,
            status=job.status.value,
            trained_tokens=job.result.get("trained_tokens"),
            training_file=spec.dataset,
            validation_file=spec.validation_dataset,
            progress=job.progress,
            metrics=job.result.get("metrics", {}),
            trials=job.result.get("trials", []),
            best_trial=job.result.get("best_trial"),
            requested=_requested(job),
            priority=job.schedule.priority,
            not_before=seconds(job.schedule.not_before),
            run_window=job.schedule.window,
            max_attempts=job.schedule.max_attempts,
            attempt=job.attempt,
        )


def _has_card(job: Job) -> bool:
    return bool(job.result.get("training_card"))


def _requested(job: Job) -> Literal["pause", "cancel"] | None:
    if job.status.terminal:
        return None
    if job.cancel_requested:
        return "cancel"
    return "pause" if job.pause_requested else None


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


class CheckpointMetrics(BaseModel):
    """What was measured last before the checkpoint."""

    step: int
    train_loss: float | None = None
    valid_loss: float | None = None


class FineTuningCheckpoint(BaseModel):
    """OpenAI's checkpoint."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    """A name for it. It is no model yet: cancel with `keep_checkpoint` to make the newest one."""
    fine_tuning_job_id: str
    metrics: CheckpointMetrics
    step_number: int

    @classmethod
    def of(cls, job: Job, checkpoint: CheckpointManifest) -> "FineTuningCheckpoint":
        """Return a checkpoint as the wire shows it."""
        adapter = TrainingSpec.model_validate(job.spec).adapter_id
        return cls(
            id=checkpoint.id,
            created_at=int(checkpoint.created_at),
            fine_tuned_model_checkpoint=f"{adapter}:ckpt-step-{checkpoint.step}",
            fine_tuning_job_id=job.id,
            metrics=CheckpointMetrics.model_validate({"step": checkpoint.step, **checkpoint.metrics}),
            step_number=checkpoint.step,
        )

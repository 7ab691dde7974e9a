"""What the worker tells a job's process, and what that process reports.

The order goes in over standard input, because it holds the object store's key; events come
out as JSON lines over a pipe of their own, because libraries print what they like.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, JsonValue, TypeAdapter, field_serializer

from narrowcast.errors import JobFailed, NarrowcastError, Outage, Unavailable
from narrowcast.settings import StorageSettings
from narrowcast.training import TrainingMetrics, TrainingSpec
from narrowcast_trainer.settings import TrainingSettings

OUT_OF_MEMORY = (
    "the training ran out of memory; set micro_batch to 1, lower max_length (and shorten the longest rows)"
    " or rank, or set quantization to nf4"
)


class Order(BaseModel):
    """What any job's process needs to know."""

    work: ClassVar[str]
    """What the process does, in one word, for messages."""
    program: ClassVar[str]
    """The module that does it."""
    out_of_memory: ClassVar[str] = "the process ran out of memory"
    """What to say where the kernel has killed it for want of memory, before it could say anything."""

    job_id: str
    tenant: str
    settings: TrainingSettings
    storage: StorageSettings
    log_level: str = "INFO"

    @property
    def ranks(self) -> int:
        """Processes that share the GPUs and the CPU's threads, at most."""
        return 1

    @field_serializer("storage", when_used="json")
    def _reveal_secret(self, storage: StorageSettings) -> dict[str, Any]:
        return storage.model_dump() | {"secret_key": storage.secret_key.get_secret_value()}


TaskName = Literal["check", "train", "publish_checkpoint"]
"""``check``: only refuse what would be refused, without touching a GPU. ``publish_checkpoint``: make the
newest checkpoint's adapter the job's."""


class TrainingOrder(Order):
    """Everything one training process needs to know."""

    work: ClassVar[str] = "training"
    program: ClassVar[str] = "narrowcast_trainer.run"
    out_of_memory: ClassVar[str] = OUT_OF_MEMORY

    spec: TrainingSpec
    max_micro_batch: int | None = None
    """In one forward pass, after an attempt with more ran out of memory."""
    lost_attempts: tuple[float, ...] = ()
    """When those of the job's attempts began whose workers were lost."""
    task: TaskName = "train"

    @property
    def ranks(self) -> int:
        """As :attr:`Order.ranks`."""
        return self.settings.nproc_per_node


class Tick(BaseModel):
    """A sign of life."""

    type: Literal["tick"] = "tick"


class Note(BaseModel):
    """Something for the user to read."""

    type: Literal["note"] = "note"
    message: str
    level: Literal["info", "warn"] = "info"
    data: dict[str, JsonValue] = {}


class Advanced(BaseModel):
    """Another step of a job that has no metrics."""

    type: Literal["advanced"] = "advanced"
    step: str


class Prepared(BaseModel):
    """The training knows how it will go about it."""

    type: Literal["prepared"] = "prepared"
    micro_batch: int


class Measured(BaseModel):
    """Metrics of a step or of a validation."""

    type: Literal["measured"] = "measured"
    metrics: TrainingMetrics


class Completed(BaseModel):
    """What the job makes is published."""

    type: Literal["completed"] = "completed"
    result: dict[str, JsonValue]


class Stopped(BaseModel):
    """The training stopped because it was asked to."""

    type: Literal["stopped"] = "stopped"
    step: int | None = None
    """Step of the checkpoint that it left, if it left one."""


class Failed(BaseModel):
    """The training failed, with a reason."""

    type: Literal["failed"] = "failed"
    code: str
    message: str
    param: str | None = None
    retry: bool = False
    """Whether another attempt may help."""
    outage: bool = False
    """Whether that is because something does not answer."""

    def as_error(self) -> NarrowcastError:
        """Return it as what ends the attempt, or the job if no other attempt would help."""
        kind = Outage if self.outage else Unavailable if self.retry else JobFailed
        return kind(self.message, code=self.code, param=self.param)


Event = Tick | Note | Advanced | Prepared | Measured | Completed | Stopped | Failed
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])

"""The training card: what a run was told, what it took and what it reached.

It lies in the adapter's own artifact, so it is as immutable as the adapter and goes when the adapter
goes. That of a training that failed, and has none, lies beside the job's archived record. It holds numbers
and names; never a row, a prompt or an answer.
"""

from typing import Any, Final, Literal

from pydantic import BaseModel

from narrowcast.artifacts import Manifest
from narrowcast.sweeps import Trial

CARD: Final = "card.json"
CARD_TEXT: Final = "README.md"
"""Under this name Hugging Face's hub shows it."""
LOSS_PNG: Final = "loss.png"
LOSS_SVG: Final = "loss.svg"
STEP_METRICS: Final = "step_metrics.csv"

Ending = Literal["completed", "stopped_early", "kept_checkpoint", "failed"]


class FailedCardManifest(Manifest):
    """Of the card of a training that failed; its id is the job's."""


def failed_card_prefix(tenant: str, job_id: str) -> str:
    """Return where such a card lies in the data bucket."""
    return f"jobs/{tenant}/{job_id}/card/"


class Point(BaseModel):
    """What was measured at one step."""

    step: int
    epoch: float
    train_loss: float | None = None
    """Nats per trained token, over the step's rows; as are all losses here."""
    train_accuracy: float | None = None
    """Share of trained tokens that were the likeliest; None where the engine does not measure it."""
    valid_loss: float | None = None
    valid_accuracy: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int | None = None
    """Put through the model in this step, padding left out."""
    tokens_per_s: float | None = None
    memory_bytes: int | None = None
    """The peak so far; see :class:`Attempt`."""


class Attempt(BaseModel):
    """One process that trained. A run that was interrupted and resumed has several.

    Memory is what PyTorch has reserved on the GPU, as in the paper; without a GPU, what the process
    holds resident.
    """

    first_step: int
    planned_steps: int
    seconds: float = 0.0
    """From its first step to its last measurement that a checkpoint, or the end, has kept."""
    device: str
    devices: int
    device_memory_bytes: int
    loaded_memory_bytes: int
    """Before the first step: the base model and the untrained adapter. On a GPU the peak until then."""
    peak_memory_bytes: int
    precision: str
    """What products are computed in."""
    quantization: str | None = None
    """How the base was stored: ``nf4``, ``int8`` or ``none``; None in records that do not say."""
    optimizer: str
    micro_batch: int
    """In one forward pass."""
    accumulation_steps: int
    trainable_parameters: int
    all_parameters: int
    libraries: dict[str, str]
    """Versions by name."""


class TokenCounts(BaseModel):
    """The rows as the model saw them."""

    train_rows: int
    validation_rows: int
    train_tokens: int
    """Of one epoch: prompts and answers."""
    answer_tokens: int
    """Those of them that the loss was over."""
    longest_row_tokens: int


class DataFile(BaseModel):
    """One file of rows, known by its hash."""

    dataset: str
    split: str
    rows: int
    sha256: str


class TrainingConfiguration(BaseModel):
    """Table II of the paper: what the training was told, with all that was left to be chosen filled in."""

    base_model: str
    base_fingerprint: str
    engine: str
    quantization: str | None
    precision: str | None
    rank: int
    alpha: int
    dropout: float
    target_modules: list[str]
    trainable_parameters: int | None
    all_parameters: int | None
    batch_size: int
    micro_batch: int | None
    accumulation_steps: int | None
    devices: int | None
    epochs: int
    planned_steps: int | None
    learning_rate: float
    """At its highest."""
    scheduler: str
    warmup_ratio: float
    weight_decay: float
    optimizer: str | None
    max_length: int
    early_stopping_patience: int
    seed: int
    hyperparameters: dict[str, Any]
    """All of them, as the job has them."""
    libraries: dict[str, str]


class TrainingResources(BaseModel):
    """Table III of the paper: time and memory."""

    device: str | None = None
    device_memory_bytes: int | None = None
    peak_memory_bytes: int | None = None
    peak_memory_percent: float | None = None
    """Of the device's."""
    training_memory_bytes: int | None = None
    """The peak over what the loaded base held."""
    training_memory_percent: float | None = None
    seconds: float | None
    """Of training and validation, all attempts added up. What a lost process had done since its last
    checkpoint was done again and counts once."""
    total_seconds: float | None
    """With loading the base model."""
    sweep_seconds: float | None = None
    """Of all trials, if the run was one of a sweep."""
    steps: int
    rows_seen: int | None
    tokens_seen: int | None
    tokens_per_s: float | None


class TrainingData(BaseModel):
    """What was trained on and validated with."""

    dataset: str
    validation_dataset: str | None
    files: list[DataFile]
    tokens: TokenCounts | None


class EpochLosses(BaseModel):
    """One epoch, or its part up to the published step of a cancelled run."""

    epoch: int
    last_step: int
    train_loss: float | None
    """Mean over its steps."""
    valid_loss: float | None


class LossAt(BaseModel):
    """A loss, and the step that it was measured at."""

    loss: float
    step: int


class LossSummary(BaseModel):
    """The whole run in five numbers; None where there was nothing to measure."""

    mean_train: float | None = None
    """Over all steps."""
    last_train: LossAt | None = None
    lowest_train: LossAt | None = None
    last_valid: LossAt | None = None
    lowest_valid: LossAt | None = None


class TrainingCard(BaseModel):
    """Everything of one run."""

    object: Literal["training_card"] = "training_card"
    adapter: str | None
    """None of a training that failed."""
    job: str
    created_at: int
    ending: Ending
    error: str | None = None
    """Code of the reason for which it failed."""
    published_step: int | None
    """The weights are those after this step."""
    prompt_template: str
    configuration: TrainingConfiguration
    resources: TrainingResources
    data: TrainingData
    losses: LossSummary
    epochs: list[EpochLosses]
    attempts: list[Attempt]
    trials: list[Trial] = []
    """All runs of the sweep that this was the best of."""
    history: list[Point]
    """By step. Of a long run not all: ``history_every``."""
    history_every: int = 1
    """Each so-many-th step is in ``history``, and with them the first, the last, the published one, the one
    of the lowest training loss and every one with a validation. All are in :data:`STEP_METRICS`."""

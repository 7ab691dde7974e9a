"""What a training job is told, and what it reports."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

EngineName = Literal["auto", "unsloth", "peft"]


class Hyperparameters(BaseModel):
    """How to train. The first three are OpenAI's names; the paper's recipe is the default."""

    model_config = ConfigDict(extra="forbid")

    n_epochs: int = Field(3, ge=1, le=50)
    batch_size: int = Field(8, ge=1, le=512)
    """Rows per optimizer step; the trainer splits it into micro-batches that fit."""
    learning_rate_multiplier: float = Field(1.0, gt=0, le=100)
    """Multiplies ``learning_rate``."""
    learning_rate: float = Field(2e-4, gt=0, lt=1)
    rank: int = Field(64, ge=1, le=512)
    alpha: int = Field(64, ge=1)
    """LoRA's scale is alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.01, ge=0)
    max_length: int = Field(2048, ge=32, le=131_072)
    """Tokens of prompt and answer together. A longer row fails the job: nothing is cut silently."""
    seed: int = 3407
    engine: EngineName = "auto"


class TrainingSpec(BaseModel):
    """The ``spec`` of a training job's record."""

    model_config = ConfigDict(extra="forbid")

    base_model: str
    """Name of a base model, as the gateway lists it and as its folder is called on the trainer."""
    dataset: str
    """Id of a dataset or an uploaded file; its ``train`` split is trained on, ``validation`` evaluated."""
    validation_dataset: str | None = None
    """If set, the ``train`` split of this one is evaluated instead."""
    adapter_id: str
    """The id the adapter will be published under, decided at submission."""
    hyperparameters: Hyperparameters = Hyperparameters()


class TrainingMetrics(BaseModel):
    """The ``data`` of a ``metrics`` event."""

    step: int
    total_steps: int
    epoch: float
    train_loss: float | None = None
    valid_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_s: float | None = None
    """Tokens in the batches, padding left out, per second of the recent steps."""
    eta_s: float | None = None
    gpu_memory_bytes: int | None = None
    """Most GPU memory that the training has held so far; None without a GPU."""

"""What a training job is told, and what it reports."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from narrowcast.estimates.shapes import LONGEST_ROW
from narrowcast.sweeps import MOST_TRIALS, SearchSpace, default_space

EngineName = Literal["auto", "unsloth", "peft"]
QuantizationName = Literal["auto", "nf4", "int8", "none"]
SchedulerName = Literal["linear", "cosine", "constant_with_warmup"]
LinearKind = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_HIGHEST_ALPHA: Final = 4096
LINEAR_KINDS: Final[tuple[str, ...]] = get_args(LinearKind)
"""The linear layers of a Llama-like block: attention's four and the feed-forward's three."""


class Hyperparameters(BaseModel):
    """How to train. The first three are OpenAI's names; the paper's recipe is the default."""

    model_config = ConfigDict(extra="forbid")

    n_epochs: int = Field(3, ge=1, le=50)
    batch_size: int = Field(8, ge=1, le=512)
    """Rows per optimizer step; the trainer splits it into micro-batches that fit."""
    micro_batch: int | None = Field(None, ge=1, le=512)
    """Rows that go through the model at once, at most; left out, as many as the trainer is set to take."""
    learning_rate_multiplier: float = Field(1.0, gt=0, le=100)
    """Multiplies ``learning_rate``."""
    learning_rate: float = Field(2e-4, gt=0, lt=1)
    rank: int = Field(64, ge=1, le=512)
    alpha: int = Field(64, ge=1, le=_HIGHEST_ALPHA)
    """LoRA's scale is alpha / rank; left out, alpha is the rank, as in unsloth's and the paper's recipe."""
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["all-linear"] | Annotated[tuple[LinearKind, ...], Field(min_length=1)] = (
        "all-linear"
    )
    """Which layers get an adapter: every linear one but the output layer, or some of the seven kinds."""
    scheduler: SchedulerName = "linear"
    """How the learning rate goes after the warm-up."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of all steps in which the learning rate rises from 0."""
    weight_decay: float = Field(0.01, ge=0, le=1)
    max_length: int = Field(2048, ge=32, le=LONGEST_ROW)
    """Tokens of prompt and answer together. A longer row fails the job: nothing is cut silently."""
    early_stopping_patience: int = Field(2, ge=0, le=50)
    """Epochs in a row without a lower validation loss after which to stop; 0 never stops early.

    Whatever it is, the weights of the lowest validation loss are published. The default leaves the
    paper's three epochs whole and spares long runs the rest.
    """
    seed: int = Field(3407, ge=0, le=2**31 - 1)
    engine: EngineName = "auto"
    """``auto``: unsloth on a node with CUDA, else peft."""
    quantization: QuantizationName = "auto"
    """Of the frozen base while it is trained on; ``auto``: NF4 on CUDA, none on a CPU."""
    n_trials: int = Field(1, ge=1, le=MOST_TRIALS)
    """Above 1: a sweep of so many runs, one after another, the best of which is published."""
    sweep: SearchSpace | None = None
    """What they vary; left out, :func:`~narrowcast.sweeps.default_space`."""

    @model_validator(mode="before")
    @classmethod
    def _alpha_follows_rank(cls, values: Any) -> Any:
        if isinstance(values, dict) and "alpha" not in values and isinstance(values.get("rank"), int):
            return values | {"alpha": values["rank"]}
        return values

    @model_validator(mode="after")
    def _sweep_has_a_space(self) -> Self:
        if self.n_trials == 1 and self.sweep is not None:
            raise ValueError("a sweep needs n_trials above 1")
        if self.n_trials > 1 and self.sweep is None:
            self.sweep = default_space(learning_rate=self.learning_rate, rank=self.rank, alpha=self.alpha)
        if uneven := [rank for rank in self._ranks if self.alpha * rank % self.rank]:
            raise ValueError(
                f"at sweep.rank {', '.join(map(str, uneven))} alpha would be no whole number: it goes with"
                f" the rank, so that the scale stays {self.alpha} / {self.rank}"
            )
        if self._alpha_at(self.largest_rank) > _HIGHEST_ALPHA:
            raise ValueError(
                f"at the sweep's rank {self.largest_rank} alpha would be {self._alpha_at(self.largest_rank)},"
                f" above {_HIGHEST_ALPHA}: it goes with the rank"
            )
        return self

    def _alpha_at(self, rank: int) -> int:
        # LoRA's scale, alpha / rank, stays what it was.
        return self.alpha * rank // self.rank

    @property
    def module_names(self) -> tuple[str, ...] | None:
        """The kinds of linear that get an adapter; None: all."""
        return None if isinstance(self.target_modules, str) else self.target_modules

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Those that runs of the job may have."""
        return (self.sweep and self.sweep.batch_size) or (self.batch_size,)

    @property
    def _ranks(self) -> tuple[int, ...]:
        return (self.sweep and self.sweep.rank) or (self.rank,)

    @property
    def largest_rank(self) -> int:
        """The highest that any run of the job may have."""
        return max(self._ranks)

    @property
    def most_epochs(self) -> int:
        """The most that any run of the job may have."""
        return max((self.sweep and self.sweep.n_epochs) or (self.n_epochs,))

    def of_trial(self, values: Mapping[str, Any]) -> "Hyperparameters":
        """Return those of one run of a sweep.

        Args:
            values: by name, of what the sweep varies.
        """
        changed = self.model_dump(exclude={"n_trials", "sweep"}) | dict(values)
        changed["alpha"] = self._alpha_at(changed["rank"])
        return Hyperparameters.model_validate(changed)


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
    served_fingerprints: tuple[str, ...] = ()
    """Of the bases whose adapters the inference server takes; empty where it could not be asked."""


class TrainingMetrics(BaseModel):
    """The ``data`` of a ``metrics`` event."""

    trial: int | None = None
    """Of a sweep, from 1; the steps are this run's."""
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

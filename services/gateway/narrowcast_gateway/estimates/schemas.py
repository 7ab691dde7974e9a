"""``/v1/fine_tuning/estimates`` on the wire."""

from typing import Literal

from pydantic import Field, model_validator

from narrowcast.estimates.estimate import Estimate
from narrowcast.estimates.shapes import LONGEST_ROW
from narrowcast_gateway.estimates.service import Answer, Question
from narrowcast_gateway.training.schemas import WithHyperparameters


class CreateEstimate(WithHyperparameters):
    """A training: base and hyper-parameters as for `/v1/fine_tuning/jobs`, and what is known of its rows."""

    training_file: str | None = None
    """A file id or a dataset id, whose training rows are counted; or say `rows`."""
    rows: int | None = Field(None, ge=1, le=100_000_000)
    tokens_per_row: float | None = Field(None, gt=0, le=LONGEST_ROW, allow_inf_nan=False)
    """On average; left out, it is measured on some rows of `training_file`."""
    longest_row: int | None = Field(None, ge=1, le=LONGEST_ROW)
    """Tokens, which memory depends on; left out, it is measured likewise."""
    gpu: str | None = None
    """Type of GPU, as nvidia-smi names it; left out, the one with the most memory that has reported."""

    @model_validator(mode="after")
    def _rows_are_known(self) -> "CreateEstimate":
        if (self.training_file is None) == (self.rows is None):
            raise ValueError("say either training_file or rows")
        if self.tokens_per_row and self.longest_row and self.tokens_per_row > self.longest_row:
            raise ValueError("tokens_per_row, a mean, is above longest_row")
        return self

    def question(self) -> Question:
        """Return it as the service takes it."""
        return Question(
            base_model=self.model,
            hyperparameters=self.given(),
            training_file=self.training_file,
            rows=self.rows,
            tokens_per_row=self.tokens_per_row,
            longest_row=self.longest_row,
            gpu=self.gpu,
        )


class FineTuningEstimate(Estimate):
    """What the training will need: memory in bytes, time in minutes, each as low, expected, high."""

    object: Literal["fine_tuning.estimate"] = "fine_tuning.estimate"
    model: str
    engine: str
    quantization: str
    micro_batch: int
    """Rows that go through the model at once, of `longest_row` tokens: the pass that takes most memory."""
    longest_row: int
    max_length: int
    rank: int
    rows: int
    tokens_per_row: float
    """On average. Where `measured_rows` is 0 and it was not said, that of the longest row that may be, so
    that the time is an upper bound."""
    rows_too_long: bool
    """Whether one of them is known to be longer than `max_length`: the job would be refused. The estimate is
    of rows that are not."""
    measured_rows: int
    """Rows of the file whose tokens were counted; 0 if none had to be, or the server did not answer."""

    @classmethod
    def of(cls, answer: Answer) -> "FineTuningEstimate":
        """Return the estimate with what it was made for."""
        shape = answer.plan.shape
        return cls(
            **answer.estimate.model_dump(),
            model=answer.base_model,
            engine=shape.engine,
            quantization=shape.quantization,
            micro_batch=shape.micro_batch,
            longest_row=shape.length,
            max_length=answer.plan.batching.max_length,
            rank=shape.rank,
            rows=answer.plan.rows,
            tokens_per_row=round(answer.plan.mean_tokens, 1),
            rows_too_long=(answer.plan.batching.longest or 0) > answer.plan.batching.max_length,
            measured_rows=answer.measured_rows,
        )

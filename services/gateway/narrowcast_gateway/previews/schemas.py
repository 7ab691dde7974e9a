"""``/v1/fine_tuning/previews`` on the wire."""

from typing import Literal

from pydantic import BaseModel, Field

from narrowcast.masking import FAULTS, Fault
from narrowcast_gateway.previews.service import Preview, Question, ShownRow, Summary
from narrowcast_gateway.training.schemas import WithHyperparameters


class CreatePreview(WithHyperparameters):
    """A training as it would be sent to `/v1/fine_tuning/jobs`, and which of its rows to show.

    Of the hyper-parameters `max_length` matters.
    """

    training_file: str
    """A file id or a dataset id; its training rows are shown."""
    rows: int = Field(3, ge=1, le=20)
    """How many to show."""
    first_row: int = Field(1, ge=1)
    """The number of the first to show, from 1."""
    whole_file: bool = False
    """Count the tokens of every training row, for `summary`: a few seconds for a thousand rows."""

    def question(self) -> Question:
        """Return it as the service takes it."""
        return Question(
            base_model=self.model,
            training_file=self.training_file,
            hyperparameters=self.given(),
            first_row=self.first_row,
            rows=self.rows,
            whole_file=self.whole_file,
        )


class PreviewSegment(BaseModel):
    """A run of tokens that are all trained, or all not."""

    text: str
    """As the base's chat template has it, special tokens included."""
    trained: bool
    tokens: int


class Refusal(BaseModel):
    """Why a job with such a row would be refused."""

    code: Fault
    message: str


class PreviewRow(BaseModel):
    """One row as the model would see it in training."""

    row: int
    """Its number, from 1, as the errors of jobs count."""
    tokens: int
    trained_tokens: int
    refused: Refusal | None
    """Null if it can be trained on."""
    segments: list[PreviewSegment]

    @classmethod
    def of(cls, shown: ShownRow) -> "PreviewRow":
        """Return a row as the wire shows it."""
        row = shown.row
        return cls(
            row=row.number,
            tokens=row.tokens,
            trained_tokens=row.tokens - row.mask_from,
            refused=Refusal(code=row.fault, message=f"such rows {FAULTS[row.fault]}") if row.fault else None,
            segments=[
                PreviewSegment(text=segment.text, trained=segment.trained, tokens=segment.tokens)
                for segment in shown.segments
            ],
        )

    def as_text(self, rows_in_file: int) -> str:
        """Return it for people."""
        verdict = "can be trained on"
        if self.refused is not None:
            verdict = f"REFUSED, {self.refused.code}: {self.refused.message}"
        body = "".join(f"⟦{part.text}⟧" if part.trained else part.text for part in self.segments)
        return (
            f"── row {self.row} of {rows_in_file}: {self.tokens} tokens, {self.trained_tokens} trained;"
            f" {verdict}\n{body}"
        )


class RefusedRows(BaseModel):
    """Rows of one fault."""

    code: Fault
    count: int
    rows: list[int]
    """Numbers of the first twenty."""


class PreviewSummary(BaseModel):
    """Of every training row of the file."""

    tokens: int
    trained_tokens: int
    longest_row: int
    """Its number."""
    longest_row_tokens: int
    refused: list[RefusedRows]
    """Empty if a job would take the file."""

    @classmethod
    def of(cls, summary: Summary) -> "PreviewSummary":
        """Return the summary as the wire shows it."""
        return cls(
            tokens=summary.tokens,
            trained_tokens=summary.trained_tokens,
            longest_row=summary.longest_row,
            longest_row_tokens=summary.longest_row_tokens,
            refused=[
                RefusedRows(code=faulty.fault, count=faulty.count, rows=faulty.first)
                for faulty in summary.faults
            ],
        )


class FineTuningPreview(BaseModel):
    """What a training would see."""

    object: Literal["fine_tuning.preview"] = "fine_tuning.preview"
    model: str
    training_file: str
    max_length: int
    """Tokens that a row may have: what was asked for, or the base's own context where that is less."""
    rows_in_file: int
    rows: list[PreviewRow]
    summary: PreviewSummary | None
    """Null unless `whole_file` was asked for."""

    @classmethod
    def of(cls, preview: Preview) -> "FineTuningPreview":
        """Return the preview as the wire shows it."""
        return cls(
            model=preview.base_model,
            training_file=preview.training_file,
            max_length=preview.max_length,
            rows_in_file=preview.rows_in_file,
            rows=[PreviewRow.of(shown) for shown in preview.shown],
            summary=PreviewSummary.of(preview.summary) if preview.summary else None,
        )

    def as_text(self) -> str:
        """Return it for people: what is trained stands between ⟦ and ⟧."""
        blocks = [row.as_text(self.rows_in_file) for row in self.rows]
        if self.summary is not None:
            it = self.summary
            blocks.append(
                f"── all rows: {it.tokens} tokens, {it.trained_tokens} trained;"
                f" the longest is row {it.longest_row} with {it.longest_row_tokens} of {self.max_length}"
            )
            blocks += [
                f"── REFUSED, {refused.code}: {refused.count} rows, {', '.join(map(str, refused.rows))}"
                for refused in it.refused
            ]
        return "\n\n".join(blocks) + "\n"

"""Shows what a training would see, before any GPU is touched. Nothing is queued, kept or logged."""

import asyncio
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from anyio import to_thread

from narrowcast.datasets import Row
from narrowcast.errors import InvalidInput, NotFound
from narrowcast.masking import FAULTS, Fault, RowLimits, mask_fault
from narrowcast.prompts import completion_messages, prompt_messages
from narrowcast_gateway.datasets.service import Datasets
from narrowcast_gateway.previews.tokenizer import BaseTokenizer
from narrowcast_gateway.settings import ServersSettings
from narrowcast_gateway.training.served import ask_served
from narrowcast_gateway.training.service import Training

_ROWS_AT_ONCE: Final = 16
"""Enough to keep vLLM's web server busy, few enough that it serves others meanwhile."""
MOST_ROWS: Final = 20_000
"""Of a file that is read as a whole."""
_NAMED_ROWS: Final = 20


@dataclass(frozen=True)
class Question:
    """What to show of which training."""

    base_model: str
    training_file: str
    hyperparameters: dict[str, Any]
    first_row: int
    rows: int
    whole_file: bool


@dataclass(frozen=True)
class Segment:
    """A run of tokens that are all trained, or all not."""

    text: str
    trained: bool
    tokens: int


@dataclass(frozen=True)
class TokenizedRow:
    """One row as the trainer would have it."""

    number: int
    """From 1, as the trainer's errors count them."""
    tokens: int
    mask_from: int
    """How many tokens at the beginning are not trained."""
    fault: Fault | None
    ids: list[int] = field(default_factory=list)
    """All of its tokens; none of a row that is only counted: those of a whole file would be a gigabyte."""


@dataclass(frozen=True)
class ShownRow:
    """One row to look at."""

    row: TokenizedRow
    segments: list[Segment]


@dataclass(frozen=True)
class FaultyRows:
    """Rows for which a job would be refused."""

    fault: Fault
    count: int
    first: list[int]
    """Numbers of the first few."""


@dataclass(frozen=True)
class Summary:
    """Of every training row."""

    tokens: int
    trained_tokens: int
    longest_row: int
    longest_row_tokens: int
    faults: list[FaultyRows]


@dataclass(frozen=True)
class Preview:
    """The answer."""

    base_model: str
    training_file: str
    max_length: int
    rows_in_file: int
    shown: list[ShownRow]
    summary: Summary | None


class Previews:
    """Answers questions; keeps nothing."""

    def __init__(
        self, training: Training, datasets: Datasets, servers: ServersSettings, http: httpx.AsyncClient
    ) -> None:
        self._training = training
        self._datasets = datasets
        self._servers = servers
        self._http = http

    async def create(self, tenant: str, question: Question) -> Preview:
        """Tokenize rows of a training file as the trainer would.

        Raises:
            NotFound: no such base model, dataset or file.
            InvalidInput: the hyper-parameters cannot be trained with, the base's chat template refuses
                the rows or adds to an answer, or there are too many of them to be read as a whole.
            Unavailable: the base's inference server does not answer.
        """
        url = self._servers.bases.get(question.base_model)
        if url is None:
            raise NotFound("no such base model", code="model_not_found", param="model")
        served = await to_thread.run_sync(ask_served, str(url))
        max_length = self._training.check(question.hyperparameters, served).max_length
        rows = await to_thread.run_sync(self._rows, tenant, question.training_file)
        if question.whole_file and len(rows) > MOST_ROWS:
            raise InvalidInput(
                f"the file has {len(rows)} training rows; {MOST_ROWS} are read as a whole at most",
                code="too_many_rows",
                param="whole_file",
            )
        if question.first_row > len(rows):
            raise InvalidInput(
                f"the file has {len(rows)} training rows", code="no_such_row", param="first_row"
            )
        tokenizer = BaseTokenizer(self._http, question.base_model, str(url))
        start = question.first_row - 1
        numbered = list(enumerate(rows, 1))
        shown = numbered[start : start + question.rows]
        limits = await tokenizer.limits(max_length)
        tokenized = await tokenize_rows(
            tokenizer,
            numbered if question.whole_file else shown,
            limits,
            keep={number for number, _ in shown},
        )
        by_number = {row.number: row for row in tokenized}
        return Preview(
            base_model=question.base_model,
            training_file=question.training_file,
            max_length=limits.max_length,
            rows_in_file=len(rows),
            shown=[await _show(tokenizer, by_number[number]) for number, _ in shown],
            summary=summarize(tokenized) if question.whole_file else None,
        )

    def _rows(self, tenant: str, training_file: str) -> list[Row]:
        manifest = self._datasets.get(tenant, training_file, param="training_file")
        rows = self._datasets.rows(manifest, "train")
        if not rows:
            raise InvalidInput(
                "the dataset has no training rows", code="empty_training_file", param="training_file"
            )
        return rows


async def tokenize_rows(
    tokenizer: BaseTokenizer,
    rows: Sequence[tuple[int, Row]],
    limits: RowLimits | None,
    keep: Container[int] = (),
) -> list[TokenizedRow]:
    """Return numbered rows as the trainer's tokenizer makes them.

    Args:
        tokenizer: the base's.
        rows: and their numbers.
        limits: what they are held against; None: nothing, they are only counted.
        keep: numbers of those whose token ids are wanted.

    Raises:
        InvalidInput, Unavailable: as :class:`BaseTokenizer`.
    """

    async def one(number: int, row: Row) -> TokenizedRow:
        before = prompt_messages(row.instruction, row.input)
        prompt = await tokenizer.chat(before, prompt=True)
        whole = await tokenizer.chat(before + completion_messages(row.output), prompt=False)
        fault: Fault | None = None
        if limits is not None:
            fault = mask_fault(prompt, whole, limits) if row.output.strip() else "empty_output"
        mask_from = len(whole) if fault == "chat_template_mismatch" else len(prompt)
        return TokenizedRow(number, len(whole), mask_from, fault, whole if number in keep else [])

    done: list[TokenizedRow] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        batch = rows[start : start + _ROWS_AT_ONCE]
        done += await asyncio.gather(*(one(number, row) for number, row in batch))
    return done


async def _show(tokenizer: BaseTokenizer, row: TokenizedRow) -> ShownRow:
    cut = row.mask_from
    # By runs, not by tokens: a Cyrillic letter may be two tokens, of which neither is text.
    before, everything = await tokenizer.text(row.ids[:cut]), await tokenizer.text(row.ids)
    # Alone, some tokenizers would drop the answer's first space.
    after = everything.removeprefix(before)
    if not everything.startswith(before):
        after = await tokenizer.text(row.ids[cut:])
    segments = [Segment(before, trained=False, tokens=cut)]
    if cut < row.tokens:
        segments.append(Segment(after, trained=True, tokens=row.tokens - cut))
    return ShownRow(row, segments)


def summarize(rows: Sequence[TokenizedRow]) -> Summary:
    """Return what the rows, of which there is at least one, have in sum."""
    longest = max(rows, key=lambda row: row.tokens)
    faults = []
    for fault in FAULTS:
        numbers = [row.number for row in rows if row.fault == fault]
        if numbers:
            faults.append(FaultyRows(fault, len(numbers), numbers[:_NAMED_ROWS]))
    return Summary(
        tokens=sum(row.tokens for row in rows),
        trained_tokens=sum(row.tokens - row.mask_from for row in rows),
        longest_row=longest.number,
        longest_row_tokens=longest.tokens,
        faults=faults,
    )

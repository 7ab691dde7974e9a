"""Datasets: rows of ``{instruction, input, output}``, split by document.

Inside they are JSON Lines with the opaque id of the document each row came from; for people
they are one JSON array, as in the paper.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from narrowcast.artifacts import CorruptArtifact, Manifest

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class Row(BaseModel):
    """One example."""

    instruction: str = Field(min_length=1)
    input: str = Field(min_length=1)
    output: str = Field(min_length=1)
    document: str | None = None
    """Opaque id of the source document."""


class DatasetManifest(Manifest):
    """A dataset of a tenant, made from a corpus or uploaded as a file."""

    source: str
    """Id of the corpus or of the uploaded file."""
    rows: dict[SplitName, int]
    prompt_template: str
    instructions: dict[str, int] = Field(default_factory=dict)
    """How often each instruction occurs in the training split."""
    statistics: dict[str, int] = Field(default_factory=dict)
    """Counts only: documents read, rejected, redactions by kind, near-duplicates."""


def dataset_prefix(tenant: str, dataset_id: str) -> str:
    """Return the key prefix of a dataset in the data bucket."""
    return f"datasets/{tenant}/{dataset_id}/"


def split_file(split: SplitName) -> str:
    """Return the file name of a split inside its dataset."""
    return f"{split}.jsonl"


def to_jsonl(rows: Iterable[Row]) -> bytes:
    """Return the rows as JSON Lines in UTF-8."""
    return "".join(row.model_dump_json(exclude_none=True) + "\n" for row in rows).encode()


def to_array(rows: Iterable[Row]) -> bytes:
    """Return the rows as the paper's JSON array: three fields, readable Cyrillic."""
    array = [row.model_dump(include={"instruction", "input", "output"}) for row in rows]
    return json.dumps(array, ensure_ascii=False, indent=1).encode()


def from_jsonl(data: bytes) -> Iterator[Row]:
    """Yield the rows of our own JSON Lines.

    Raises:
        CorruptArtifact: a line is not a row (its number is named, its content is not).
    """
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            yield Row.model_validate_json(line)
        except ValidationError:
            raise CorruptArtifact(f"line {number} is not a dataset row") from None

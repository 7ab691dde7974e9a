"""What a document is made of: paragraphs and tables, in reading order."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Paragraph:
    """Lines of text; each line is a paragraph of its own, or all are one with soft line breaks."""

    text: str
    bold: bool = False
    centered: bool = False
    soft_breaks: bool = False
    page_header: bool = False  # stands in the page header part of the document


@dataclass(frozen=True)
class Table:
    """Two columns; a row of one cell spans both. A cell's lines are paragraphs."""

    rows: tuple[tuple[str, ...], ...]


Block = Paragraph | Table


def texts(block: Block) -> Iterator[str]:
    """Yield the block's texts in reading order."""
    if isinstance(block, Paragraph):
        yield block.text
    else:
        for row in block.rows:
            yield from row

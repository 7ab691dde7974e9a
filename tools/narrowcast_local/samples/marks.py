"""Personal data carried through string templates.

A name passes through case endings, sentence templates, table cells and layouts before its
place in the document is known. So it travels inside the string, between two private-use
characters, and ``unmark`` turns the finished string into plain text and spans.
"""

import re
from collections.abc import Iterable

KINDS = ("person", "date", "number", "address", "phone")
_FIRST = 0xE000  # Unicode private use area: never part of a report
_CLOSE = chr(_FIRST + len(KINDS))
_OPEN = {kind: chr(_FIRST + index) for index, kind in enumerate(KINDS)}
_KIND = {character: kind for kind, character in _OPEN.items()}
_ANY = re.compile(f"[{chr(_FIRST)}-{_CLOSE}]")


def mark(kind: str, text: str) -> str:
    """Wrap a personal datum of one of ``KINDS``; marks do not nest."""
    return f"{_OPEN[kind]}{text}{_CLOSE}"


def unmark(marked: str) -> tuple[str, list[tuple[str, int, int]]]:
    """Return plain text and its ``(kind, start, end)`` spans in characters, in reading order."""
    plain: list[str] = []
    spans: list[tuple[str, int, int]] = []
    length = last = start = 0
    kind = ""
    for found in _ANY.finditer(marked):
        plain.append(marked[last : found.start()])
        length += found.start() - last
        last = found.end()
        if found.group() == _CLOSE:
            spans.append((kind, start, length))
        else:
            kind, start = _KIND[found.group()], length
    plain.append(marked[last:])
    return "".join(plain), spans


def plain(marked: str) -> str:
    """Return the text without its marks."""
    return _ANY.sub("", marked)


def width(sentences: Iterable[str]) -> int:
    """Length in characters of the sentences joined by one separator, marks not counted."""
    lengths = [len(plain(sentence)) for sentence in sentences]
    return sum(lengths) + max(0, len(lengths) - 1)

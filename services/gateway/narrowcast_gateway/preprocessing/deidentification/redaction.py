"""Replacing personal data in the kept parts of a report."""

from collections import Counter
from collections.abc import Iterable

from narrowcast_gateway.preprocessing.deidentification.harvest import HarvestedNames, harvest
from narrowcast_gateway.preprocessing.deidentification.lexicon import Lexicon
from narrowcast_gateway.preprocessing.deidentification.names import NameFinder, join_names
from narrowcast_gateway.preprocessing.deidentification.patterns import find_by_pattern
from narrowcast_gateway.preprocessing.deidentification.placeholders import PLACEHOLDERS, Kind, Span


class Deidentifier:
    """Removes personal data from text. Holds the name models; not thread-safe."""

    def __init__(self) -> None:
        self._lexicon = Lexicon()
        self._finder = NameFinder(self._lexicon)

    def harvest(self, lines: Iterable[str]) -> HarvestedNames:
        """Names of the people in the patient block, the signature and the page margins."""
        return harvest(lines, self._finder, self._lexicon)

    def find(self, text: str, names: HarvestedNames | None = None) -> list[Span]:
        """Spans to remove, in order, not overlapping."""
        persons = self._finder.find(text)
        if names is not None:
            persons = join_names([*persons, *names.find(text)], text)
        return _without_overlaps([*find_by_pattern(text), *persons])

    def redact(self, text: str, names: HarvestedNames | None = None) -> tuple[str, Counter[Kind]]:
        """``text`` with placeholders, and how many of each kind were put in."""
        pieces: list[str] = []
        counts: Counter[Kind] = Counter()
        position = 0
        for span in self.find(text, names):
            pieces += (text[position : span.start], PLACEHOLDERS[span.kind])
            counts[span.kind] += 1
            position = span.stop
        pieces.append(text[position:])
        return "".join(pieces), counts


def _without_overlaps(spans: list[Span]) -> list[Span]:
    """Of overlapping spans one that covers them all, of the longest one's kind."""
    merged: list[Span] = []
    longest = 0
    for span in sorted(spans):
        length = span.stop - span.start
        if merged and span.start < merged[-1].stop:
            last = merged[-1]
            kind = span.kind if length > longest else last.kind
            merged[-1] = Span(last.start, max(last.stop, span.stop), kind)
            longest = max(longest, length)
        else:
            merged.append(span)
            longest = length
    return merged

"""Replacing personal data in the kept parts of a report."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from narrowcast_gateway.preprocessing.deidentification.harvest import (
    HarvestedNames,
    harvest,
    names_among,
)
from narrowcast_gateway.preprocessing.deidentification.lexicon import Lexicon, in_one_script
from narrowcast_gateway.preprocessing.deidentification.names import NameFinder, join_names
from narrowcast_gateway.preprocessing.deidentification.patterns import find_by_pattern
from narrowcast_gateway.preprocessing.deidentification.placeholders import PLACEHOLDERS, Kind, Span
from narrowcast_gateway.preprocessing.deidentification.places import find_places


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
        text = in_one_script(text)
        persons = self._finder.find(text)
        # Whoever is named once for certain («реаниматолог Усик») is so wherever else the name stands.
        words = names_among(persons, text, self._lexicon)
        names = HarvestedNames(words if names is None else words | names.words, self._lexicon)
        persons = join_names([*persons, *names.find(text)], text)
        # «Кан» is a town too.
        named = {(span.start, span.stop) for span in persons}
        places = [span for span in find_places(text, self._lexicon) if (span.start, span.stop) not in named]
        return _without_overlaps([*find_by_pattern(text), *places, *persons])

    def redact(
        self, texts: Sequence[str], names: HarvestedNames | None = None
    ) -> tuple[list[str], Counter[Kind]]:
        """``texts`` with placeholders, and how many of each kind were put in.

        The texts are judged as one: the tagger costs as much for two lines as for a page.
        """
        whole = _SEPARATOR.join(texts)
        ends = list(itertools.accumulate(len(text) + len(_SEPARATOR) for text in texts))
        pieces: list[list[str]] = [[] for _ in texts]
        counts: Counter[Kind] = Counter()
        spans = self.find(whole, names)
        for number, text in enumerate(texts):
            offset = ends[number] - len(text) - len(_SEPARATOR)
            position = 0
            for span in spans:
                start, stop = max(span.start - offset, 0), min(span.stop - offset, len(text))
                if start < stop:
                    pieces[number] += (text[position:start], PLACEHOLDERS[span.kind])
                    counts[span.kind] += 1
                    position = stop
            pieces[number].append(text[position:])
        return ["".join(piece) for piece in pieces], counts


# No pattern and no name reaches across an empty line.
_SEPARATOR = "\n\n"


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

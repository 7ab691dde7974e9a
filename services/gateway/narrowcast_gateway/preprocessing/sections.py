"""Finding description and conclusion among the lines of a report.

A line is first told what it is by its own words (a heading, a field of the patient block, a
signature, advice, running text); then one pass through the lines decides what belongs
together. Several pairs in one document (two regions examined at once) are joined.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from narrowcast_gateway.preprocessing.line_kinds import LineKind, classify, cut_advice
from narrowcast_gateway.preprocessing.rejections import Rejection, rejected


@dataclass(frozen=True)
class Sections:
    """Parts of a report.

    Attributes:
        description: paragraphs of what was seen, parted by line feeds.
        conclusion: paragraphs of the doctor's impression, without advice and signature.
        rest: every other line of the body; names are harvested from it.
    """

    description: str
    conclusion: str
    rest: tuple[str, ...]


class _State(Enum):
    HEADER = auto()
    DESCRIPTION = auto()
    CONCLUSION = auto()
    TAIL = auto()


@dataclass
class _Parts:
    description: list[str] = field(default_factory=list)
    conclusion: list[str] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)
    # Where the description began that no heading announced.
    guessed_from: int | None = None

    def take_back_guess(self) -> None:
        """A heading «Описание» came: the long lines before it were not the description."""
        if self.guessed_from is not None:
            self.rest += self.description[self.guessed_from :]
            del self.description[self.guessed_from :]
            self.guessed_from = None

    def add(self, state: _State, text: str) -> None:
        if not text:
            return
        if state is _State.DESCRIPTION:
            self.description.append(text)
        elif state is _State.CONCLUSION:
            self.conclusion.append(text)
        else:
            self.rest.append(text)


def find_sections(lines: Sequence[str]) -> Sections:
    """Split the body lines of a report.

    Raises:
        DocumentRejected: ``empty_document``, ``no_conclusion``, ``no_description``.
    """
    if not lines:
        raise rejected(Rejection.EMPTY_DOCUMENT)
    parts = _Parts()
    state = _State.HEADER
    for line in lines:
        state = _place(line, state, parts)
    if not parts.conclusion:
        raise rejected(Rejection.NO_CONCLUSION)
    if not parts.description:
        raise rejected(Rejection.NO_DESCRIPTION)
    return Sections(_join(parts.description), _join(parts.conclusion), tuple(parts.rest))


def _place(line: str, state: _State, parts: _Parts) -> _State:
    """File ``line`` and return the state after it."""
    kind, text = classify(line)
    if kind is LineKind.DESCRIPTION_HEADING:
        parts.take_back_guess()
        parts.add(_State.DESCRIPTION, text)
        return _State.DESCRIPTION
    if kind is LineKind.CONCLUSION_HEADING:
        return _begin_conclusion(line, text, state, parts)
    if kind is LineKind.ADVICE:
        parts.add(_State.TAIL, line)
        return _State.TAIL if state is _State.CONCLUSION else state
    if kind in (LineKind.FIELD, LineKind.SIGNATURE, LineKind.DISCLAIMER):
        parts.add(_State.TAIL, line)
        return _State.TAIL if state is _State.CONCLUSION else state
    if kind is LineKind.TITLE:
        parts.add(_State.TAIL, line)
        # The next region's title ends the conclusion of the one before.
        return _State.HEADER if state in (_State.CONCLUSION, _State.TAIL) else state
    if kind is LineKind.FINDINGS and state is _State.HEADER:
        state = _State.DESCRIPTION
        parts.guessed_from = len(parts.description)
    return _place_text(line, state, parts)


def _begin_conclusion(line: str, text: str, state: _State, parts: _Parts) -> _State:
    # «ЗАКЛЮЧЕНИЕ № 12» over the patient block is the document's title.
    if state is _State.HEADER and not parts.description and not text:
        parts.add(_State.HEADER, line)
        return _State.HEADER
    parts.guessed_from = None
    return _place_text(text, _State.CONCLUSION, parts)


def _place_text(text: str, state: _State, parts: _Parts) -> _State:
    if state is not _State.CONCLUSION:
        parts.add(state, text)
        return state
    kept, advice = cut_advice(text)
    parts.add(_State.CONCLUSION, kept)
    parts.add(_State.TAIL, advice)
    return _State.TAIL if advice else state


def _join(paragraphs: Sequence[str]) -> str:
    return "\n".join(paragraph.replace("\t", " ").strip() for paragraph in paragraphs).strip()

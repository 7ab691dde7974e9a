"""Finding people's names in Russian text.

Three witnesses, because each alone misses names: a neural tagger trained on news (weak on
lone surnames and blind to UPPER CASE), the dictionary of :mod:`lexicon` (blind to foreign
names), and the forms names are written in (initials, «врач …»). Any of them suffices,
unless the word is a known medical term or an ordinary word.
"""

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from navec import Navec
from slovnet import NER

from narrowcast_gateway.preprocessing.deidentification.lexicon import Lexicon
from narrowcast_gateway.preprocessing.deidentification.placeholders import Kind, Span

_EMBEDDINGS = Path("emb/navec_news_v1_1B_250K_300d_100q.tar")
_TAGGER = Path("model/slovnet_ner_news_v1.tar")

_WORD = re.compile(r"[А-Яа-яЁё]+(?:-[А-Яа-яЁё]+)*")
_INITIAL = r"[А-ЯЁ]\.\s?"
_SURNAME = r"[А-ЯЁ](?:[а-яё]+|[А-ЯЁ]+)(?:-[А-ЯЁ](?:[а-яё]+|[А-ЯЁ]+))?"
_WITH_INITIALS = re.compile(
    rf"(?<![\w.])(?:(?P<before>{_SURNAME})\s+{_INITIAL}(?:[А-ЯЁ]\.|[А-ЯЁ]\b)|{_INITIAL}{_INITIAL}(?P<after>{_SURNAME}))"
)
# Words before which a capitalised word is a person.
_ROLE = re.compile(
    r"\b(?:врач\w*(?:[-–\s]+[а-яё]+лог\w*)?|доктор\w*|рентгенолог\w*|д-р\w*|пациент\w*|больн(?:ой|ая|ого|ому|ым|ую)|проф(?:ессор\w*|\.)|лаборант\w*|медсестр\w*|фельдшер\w*|гр(?:\.|аждан\w+)|ф\.?\s?и\.?\s?о\.?|фамилия|имя|отчество|исполнител\w*|выполнил\w*|провел\w*|провёл|описал\w*|подпис\w*|зав(?:едующ\w*|\.)(?:\s+отделени\w+)?|матер[ьи]|отец|мать)"
    r"(?:\s+(?:высшей|первой|второй)?\s*категории|,?\s*[кд]\.\s?м\.\s?н\.)?\s*[:\t—–-]?\s*[(«_]*\s*$",
    re.IGNORECASE,
)
_ROLE_REACH = 60
_SENTENCE_END = re.compile(r"(?:^|[.!?:;\n\t•)\]»\"]|\s[—–-])\s*$|^[\W_]*$")
_CAPITALS_SHARE = 0.6
_SHORTEST_TITLE_CASED = 3

# A dictionary word counts as a name inside a sentence when names make up this much of its
# readings; where capitals say nothing (sentence start, UPPER CASE) they must prevail.
_NAME_SHARE_INSIDE = 0.25
_NAME_SHARE_AT_START = 0.6


@dataclass(frozen=True)
class _Token:
    start: int
    stop: int
    text: str
    at_start: bool


class NameFinder:
    """Finds people's names; holds the models (about 200 MB). Not thread-safe."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        data = _model_folder()
        self._tagger = NER.load(str(data / _TAGGER))
        self._tagger.navec(Navec.load(str(data / _EMBEDDINGS)))

    def find(self, text: str) -> list[Span]:
        """Spans of names in ``text``, parts of one name joined, eponyms left alone."""
        shown, shouted = _without_shouting(text)
        words = list(_tokens(shown))
        tagged = self._tagged(shown)
        chosen = {
            (word.start, word.stop)
            for word in words
            if self._is_name(word, shown, in_tag=_inside(word, tagged), shouted=_inside(word, shouted))
        }
        self._add_neighbours(words, chosen, shown)
        spans = [Span(start, stop, Kind.PERSON) for start, stop in chosen]
        spans.extend(self._with_initials(shown))
        return join_names(spans, text)

    def _tagged(self, text: str) -> list[tuple[int, int]]:
        if not text.strip():
            return []
        return [(span.start, span.stop) for span in self._tagger(text).spans if span.type == "PER"]

    def _is_name(self, token: _Token, text: str, *, in_tag: bool, shouted: bool) -> bool:
        word = token.text
        if not word[0].isupper() or len(word) < 2 or self._lexicon.is_medical(word):
            return False
        if not shouted and word.isupper() and len(word) <= _LONGEST_ABBREVIATION:
            return False
        facts = self._lexicon.look_up(word.lower())
        if facts.patronymic and len(word) > 5:
            return True
        at_start = token.at_start or shouted
        if facts.known:
            if in_tag and (facts.name_share > 0 or not facts.ordinary):
                return facts.name_share >= _NAME_SHARE_INSIDE / 5 or not facts.ordinary
            return facts.name_share >= (_NAME_SHARE_AT_START if at_start else _NAME_SHARE_INSIDE)
        if self._lexicon.is_learned(word):
            return False
        if in_tag or _has_role_before(text, token.start):
            return True
        return facts.name_share >= (_NAME_SHARE_AT_START if at_start else _NAME_SHARE_INSIDE) and (
            self._lexicon.has_surname_ending(word)
        )

    def _add_neighbours(self, words: list[_Token], chosen: set[tuple[int, int]], text: str) -> None:
        """Before a patronymic stand a first name and a surname, after it a surname at most."""
        for index, word in enumerate(words):
            if (word.start, word.stop) not in chosen or not self._lexicon.look_up(word.text.lower()).patronymic:
                continue
            for offset in (-1, -2, 1):
                position = index + offset
                if not 0 <= position < len(words):
                    continue
                near = words[position]
                between = text[min(near.stop, word.stop) : max(near.start, word.start)]
                if near.text[0].isupper() and len(between) < 25 and not re.search(r"[.,;:\n\t]", between):
                    chosen.add((near.start, near.stop))

    def _with_initials(self, text: str) -> Iterator[Span]:
        for match in _WITH_INITIALS.finditer(text):
            surname = match.group("before") or match.group("after")
            facts = self._lexicon.look_up(surname.lower())
            # «Сегмент А.В.»: an ordinary word before initials is no surname.
            if facts.ordinary and facts.name_share == 0 and match.group("before"):
                continue
            yield Span(match.start(), match.end(), Kind.PERSON)


_LONGEST_ABBREVIATION = 4


def join_names(spans: list[Span], text: str) -> list[Span]:
    """Join name parts that only blanks, hyphens, dots or initials part."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and _GAP.fullmatch(text[joined[-1].stop : span.start]) is not None and span.start >= joined[-1].stop:
            joined[-1] = Span(joined[-1].start, max(joined[-1].stop, span.stop), Kind.PERSON)
        elif joined and span.start < joined[-1].stop:
            joined[-1] = Span(joined[-1].start, max(joined[-1].stop, span.stop), Kind.PERSON)
        else:
            joined.append(span)
    return joined


_GAP = re.compile(r"(?:[ \t]{0,3}|[ \t]?-[ \t]?)(?:[А-ЯЁ]\.[ \t]?){0,2}")


def _model_folder() -> Path:
    """Folder of the model files inside natasha; importing it would need pymorphy2."""
    package = importlib.util.find_spec("natasha")
    if package is None or package.origin is None:
        raise RuntimeError("the natasha distribution, which carries the name models, is not installed")
    return Path(package.origin).parent / "data"


def _tokens(text: str) -> Iterator[_Token]:
    for match in _WORD.finditer(text):
        before = text[max(0, match.start() - 4) : match.start()]
        at_start = match.start() == 0 or _SENTENCE_END.search(before) is not None
        yield _Token(match.start(), match.end(), match.group(), at_start)


def _inside(word: _Token, spans: list[tuple[int, int]]) -> bool:
    return any(start <= word.start and word.stop <= stop for start, stop in spans)


def _has_role_before(text: str, position: int) -> bool:
    return _ROLE.search(text[max(0, position - _ROLE_REACH) : position]) is not None


def _without_shouting(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Title-case the lines in UPPER CASE; the length and every position stay.

    Returns:
        the text, and the spans of the lines that were changed.
    """
    lines: list[str] = []
    shouted: list[tuple[int, int]] = []
    position = 0
    for line in text.splitlines(keepends=True):
        letters = [sign for sign in line if sign.isalpha()]
        if letters and sum(sign.isupper() for sign in letters) / len(letters) > _CAPITALS_SHARE:
            shouted.append((position, position + len(line)))
            lines.append(_WORD.sub(_title_case, line))
        else:
            lines.append(line)
        position += len(line)
    return "".join(lines), shouted


def _title_case(match: re.Match[str]) -> str:
    word = match.group()
    if len(word) < _SHORTEST_TITLE_CASED:
        return word
    return "-".join(part[:1].upper() + part[1:].lower() for part in word.split("-"))

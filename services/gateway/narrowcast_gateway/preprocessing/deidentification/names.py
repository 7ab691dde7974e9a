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
_LATIN_NAME = re.compile(r"[A-ZÀ-Þ][A-Za-zÀ-ÿ'’-]+")
_INITIAL = r"[А-ЯЁ]\.\s?"
_SURNAME = r"[А-ЯЁ](?:[а-яё]+|[А-ЯЁ]+)(?:-[А-ЯЁ](?:[а-яё]+|[А-ЯЁ]+))?"
_WITH_INITIALS = re.compile(
    rf"(?<![\w.])(?:(?P<before>{_SURNAME})\s+{_INITIAL}(?:[А-ЯЁ]\.|[А-ЯЁ]\b)|{_INITIAL}{_INITIAL}(?P<after>{_SURNAME})|{_INITIAL}(?P<single>{_SURNAME}))"
)
# Words before which a capitalised word is a person.
_ROLE = re.compile(
    r"\b(?:врач\w*(?:[-–\s]+[а-яё]+лог\w*)?|доктор\w*|рентгенолог\w*|д-р\w*|пациент\w*|больн(?:ой|ая|ого|ому|ым|ую)|проф(?:ессор\w*|\.)|лаборант\w*|медсестр\w*|фельдшер\w*|гр(?:\.|аждан\w+)|ф\.?\s?и\.?\s?о\.?|фамилия|имя|отчество|исполнител\w*|выполнил\w*|провел\w*|провёл|описал\w*|подпис\w*|зав(?:едующ\w*|\.)(?:\s+отделени\w+)?|матер[ьи]|отец|мать)"
    r"(?:\s+(?:высшей|первой|второй)?\s*категории|,?\s*[кд]\.\s?м\.\s?н\.)?\s*[:\t—–-]?\s*[(«_]*\s*$",
    re.IGNORECASE,
)
# Words after which stands the name of whoever described a thing, not of whoever has it.
_EPONYM_BEFORE = re.compile(
    r"\b(?:по(?:\s+(?:классификаци\w+|шкал\w+|методик\w+|критери\w+))?|лини[яеюий]\w{0,2}|болезн\w+|синдром\w*|симптом\w*|кист\w{1,3}|уз(?:ел|л\w{1,3})|грыж\w{1,3}|связк\w{1,3}|перелом\w*|классификаци\w+|степен\w+|индекс\w*|уг(?:ол|л\w{1,2})|проб\w{1,2}|тест\w{0,2}|пространств\w*|пальц\w+|треугольник\w*|канал\w{0,3}|точк\w{1,3}|шкал\w+|деформаци\w+|аномали\w+|мальформаци\w+|дивертикул\w*|борозд\w*|щел\w{1,3}|водопровод\w*|отверсти\w+|бугор(?:ок|к)\w*|петл\w+|повреждени\w+|переломо-?вывих\w*|кольц\w+|окн\w+|карман\w*|тельц\w+|опухол\w+|саркома|лимфом\w+)\s*(?:[IVX\d]+\s+)?[«(]?$",
    re.IGNORECASE,
)
_ROLE_REACH = 60
_BREAK = re.compile(r"[.,;:\n\t]")
_SENTENCE_END = re.compile(r"(?:^|[.!?:;\n\t•)\]»\"]|\s[—–-])\s*$|^[\W_]*$")
_CAPITALS_SHARE = 0.6
_SHORTEST_TITLE_CASED = 3
_LONGEST_ABBREVIATION = 4
_SHORTEST_PATRONYMIC = 6

# A dictionary word counts as a name inside a sentence when names make up this much of its
# readings; where capitals say nothing (sentence start) they must prevail. In UPPER CASE the
# tagger sees little, so the dictionary has to carry more and may err on removing.
_NAME_SHARE_INSIDE = 0.25
_NAME_SHARE_AT_START = 0.6
_NAME_SHARE_SHOUTED = 0.3


@dataclass(frozen=True)
class _Token:
    start: int
    stop: int
    text: str
    at_start: bool
    in_tag: bool
    shouted: bool


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
        tagged = self._tagged(shown)
        words = [
            _Token(*found, in_tag=_inside(found, tagged), shouted=_inside(found, shouted))
            for found in _words(shown)
        ]
        chosen = {(word.start, word.stop) for word in words if self._is_name(word, shown)}
        self._add_neighbours(words, chosen, shown)
        self._add_tagged_company(words, tagged, chosen)
        spans = [Span(start, stop, Kind.PERSON) for start, stop in chosen]
        spans.extend(self._with_initials(shown))
        spans.extend(self._in_latin(shown, tagged))
        return join_names(spans, text)

    def _tagged(self, text: str) -> list[tuple[int, int]]:
        if not text.strip():
            return []
        return [(span.start, span.stop) for span in self._tagger(text).spans if span.type == "PER"]

    def _is_name(self, token: _Token, text: str) -> bool:
        word = token.text
        if not word[0].isupper() or len(word) < 2 or self._is_protected(token, text):
            return False
        parts = word.split("-")
        if len(parts) > 1 and not all(self._may_be_name_part(part) for part in parts):
            # «МР-картина», «УЗ-признаки»
            return False
        facts = self._lexicon.look_up(word.lower())
        if facts.patronymic and len(word) >= _SHORTEST_PATRONYMIC:
            return True
        says_so = token.in_tag or _has_role_before(text, token.start)
        at_start = token.at_start or token.shouted
        share = _name_share_needed(token)
        if facts.known:
            # Capitals inside a sentence and a witness outweigh an ordinary reading: «Мороз».
            return facts.name_share >= share or (
                says_so and (not at_start or facts.name_share > 0 or not facts.ordinary)
            )
        if self._lexicon.is_learned(word):
            return False
        if token.shouted:
            # Abbreviations and rare terms look like names to the tagger here.
            if len(word) <= _LONGEST_ABBREVIATION:
                return False
            if facts.name_share >= _NAME_SHARE_AT_START:
                return True
            return (says_so and facts.noun) or (
                facts.name_share >= share and self._lexicon.has_surname_ending(word)
            )
        return says_so or (facts.name_share >= share and self._lexicon.has_surname_ending(word))

    def _is_protected(self, token: _Token, text: str) -> bool:
        """Abbreviations, medical terms and eponyms: «киста Бейкера», «по Забрамски»."""
        word = token.text
        if not token.shouted and word.isupper() and len(word) <= _LONGEST_ABBREVIATION:
            return True
        if _has_role_before(text, token.start):
            return False
        if _EPONYM_BEFORE.search(text[max(0, token.start - _ROLE_REACH) : token.start]):
            return True
        return self._lexicon.is_medical(word)

    def _may_be_name_part(self, part: str) -> bool:
        facts = self._lexicon.look_up(part.lower())
        return (
            len(part) > 2
            and (facts.name_share > 0 or not facts.ordinary)
            and not self._lexicon.is_learned(part)
        )

    def _add_neighbours(self, words: list[_Token], chosen: set[tuple[int, int]], text: str) -> None:
        """Before a patronymic stand a first name and a surname, after it a surname at most."""
        for index, word in enumerate(words):
            if (word.start, word.stop) not in chosen or not self._lexicon.look_up(
                word.text.lower()
            ).patronymic:
                continue
            for offset in (-1, -2, 1):
                position = index + offset
                if not 0 <= position < len(words):
                    continue
                near = words[position]
                between = text[min(near.stop, word.stop) : max(near.start, word.start)]
                if _BREAK.search(between) is None and self._may_stand_beside(near, after=offset > 0):
                    chosen.add((near.start, near.stop))

    def _may_stand_beside(self, near: _Token, *, after: bool) -> bool:
        """Whether a word beside a patronymic is part of the name; behind it comes prose as often."""
        word = near.text
        if not word[0].isupper() or self._lexicon.is_medical(word):
            return False
        if not after and not near.shouted:
            return True
        return all(self._may_be_name_part(part) for part in word.split("-"))

    def _add_tagged_company(
        self, words: list[_Token], tagged: list[tuple[int, int]], chosen: set[tuple[int, int]]
    ) -> None:
        """What the tagger joins to a certain name belongs to it: «Хван Чжан», «Алексей Миллер».

        An ordinary word counts only right beside a first name («Виктор Понедельник»).
        """
        for start, stop in tagged:
            inside = [word for word in words if start <= word.start and word.stop <= stop]
            certain = [number for number, word in enumerate(inside) if (word.start, word.stop) in chosen]
            for number, word in enumerate(inside):
                facts = self._lexicon.look_up(word.text.lower())
                beside = [inside[other] for other in certain if abs(other - number) == 1]
                if not beside or self._lexicon.is_learned(word.text):
                    continue
                first_name = any(self._lexicon.look_up(other.text.lower()).first_name for other in beside)
                if first_name or not (facts.ordinary or word.shouted or self._lexicon.is_medical(word.text)):
                    chosen.add((word.start, word.stop))

    def _in_latin(self, text: str, tagged: list[tuple[int, int]]) -> Iterator[Span]:
        """Tagged names of two or more Latin words; single ones are eponyms and trade marks."""
        for start, stop in tagged:
            words = _LATIN_NAME.findall(text[start:stop])
            if len(words) > 1 and not any(self._lexicon.is_medical(word) for word in words):
                yield Span(start, stop, Kind.PERSON)

    def _with_initials(self, text: str) -> Iterator[Span]:
        for match in _WITH_INITIALS.finditer(text):
            surname = match.group("before") or match.group("after") or match.group("single")
            facts = self._lexicon.look_up(surname.lower())
            # «Сегмент А.В.»: an ordinary word before initials is no surname.
            if facts.ordinary and facts.name_share == 0 and not match.group("after"):
                continue
            yield Span(match.start(), match.end(), Kind.PERSON)


def join_names(spans: list[Span], text: str) -> list[Span]:
    """Join name parts that only blanks, hyphens, dots or initials part."""
    joined: list[Span] = []
    for span in sorted(spans):
        if (
            joined
            and _GAP.fullmatch(text[joined[-1].stop : span.start]) is not None
            and span.start >= joined[-1].stop
        ) or (joined and span.start < joined[-1].stop):
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


def _name_share_needed(token: _Token) -> float:
    if token.shouted:
        return _NAME_SHARE_SHOUTED
    return _NAME_SHARE_AT_START if token.at_start else _NAME_SHARE_INSIDE


def _words(text: str) -> Iterator[tuple[int, int, str, bool]]:
    """Start, stop, text of every Cyrillic word and whether it opens a sentence."""
    for match in _WORD.finditer(text):
        before = text[max(0, match.start() - 4) : match.start()]
        yield (
            match.start(),
            match.end(),
            match.group(),
            match.start() == 0 or _SENTENCE_END.search(before) is not None,
        )


def _inside(word: tuple[int, int, str, bool], spans: list[tuple[int, int]]) -> bool:
    return any(start <= word[0] and word[1] <= stop for start, stop in spans)


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

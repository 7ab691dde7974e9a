"""Names read off the patient block and the signature, and their forms in the body.

The header says who the patient and the doctors are. A name found there goes from the body in
every case form, whether or not anything in the body itself looks like a name.
"""

import re
from collections.abc import Iterable

from narrowcast_gateway.preprocessing.deidentification.lexicon import (
    LETTERS,
    Lexicon,
    in_one_script,
    normal,
    stem,
)
from narrowcast_gateway.preprocessing.deidentification.name_context import names_a_standing_thing
from narrowcast_gateway.preprocessing.deidentification.name_forms import initials_before, rest_of_name
from narrowcast_gateway.preprocessing.deidentification.names import NameFinder
from narrowcast_gateway.preprocessing.deidentification.placeholders import Kind, Span

_WORD = re.compile(rf"[{LETTERS}]+|[A-Za-zÀ-ÿ]+")
_LABEL = re.compile(
    r"(?:ф\.?\s?и\.?\s?о\.?(?:\s+(?:пациент\w*|больн\w+|врача))?|фамилия(?:,?\s*имя,?\s*(?:и\s+)?отчество)?|имя|отчество|пациент(?:ка)?|больн(?:ой|ая)|врач(?:[-–\s]*[а-яё]*(?:лог|ист))?|(?:рентген)?лаборант|доктор|исполнитель|(?:исследование\s+)?(?:выполнил|провел|провёл|описал)[аи]?|заведующ\w+(?:\s+отделением)?|направил|направивший\s+врач|patient(?:'s)?(?:\s+name)?|doctor|physician|dr\.)"
    r"(?:\s*\([^)\n]{0,20}\))?\s*[:\t_—–-]*\s*(?P<name>[^\W\d_][^\n\d,;:(]{1,60})",
    re.IGNORECASE,
)
# Words beside a label's name that are not part of it.
_NOT_NAMES = frozenset(
    [
        "дата", "рождения", "возраст", "пол", "год", "лет", "отделение", "отделения", "врач", "врача",
        "пациент", "пациента", "рентгенолог", "категории", "высшей", "первой", "второй", "подпись",
        "адрес", "телефон", "карта", "номер", "мужской", "женский", "муж", "жен", "г", "р", "лучевой",
        "диагностики", "кабинет", "томографии", "магнитно", "резонансной", "направление", "направлен",
        "исследование", "исследования", "клиника", "больница", "поликлиника", "центр", "зав",
        "отделением", "узи", "функциональной", "невролог", "травматолог", "ортопед", "хирург",
        "терапевт", "нейрохирург",
    ]
)  # fmt: skip
# «Жук» declines like any noun; «Ли» does not, and two letters begin too many words.
_SHORTEST_DECLINED = 3
# Of a small word's readings those that are names: «иванова», which may be «Ivan's» too.
_LIKELY_SHARE = 0.5
# A shorter stem would match unrelated words.
_SHORTEST_STEMMED = 4


class HarvestedNames:
    """Names of one document's people, matched in any case form."""

    def __init__(self, words: Iterable[str], lexicon: Lexicon) -> None:
        self.words = frozenset(words)
        self._lexicon = lexicon
        self._forms: set[str] = set()
        self._lemmas: set[str] = set()
        self._stems: set[str] = set()
        for word in self.words:
            lower = normal(word)
            self._forms.add(lower)
            if len(lower) >= _SHORTEST_DECLINED:
                self._lemmas |= lexicon.look_up(word.lower()).lemmas
            if len(lower) >= _SHORTEST_STEMMED:
                self._stems.add(stem(lower))

    def find(self, text: str) -> list[Span]:
        """Spans of every form of the names in ``text``."""
        return [
            Span(
                match.start() - initials_before(text, match.start()),
                match.end() + rest_of_name(text, match.end()),
                Kind.PERSON,
            )
            for match in _WORD.finditer(text)
            if self._matches(match.group()) and not self._is_eponym_there(match, text)
        ]

    def _is_eponym_there(self, match: re.Match[str], text: str) -> bool:
        """Of a patient called Паркинсон, «болезнь Паркинсона» tells nothing."""
        return self._lexicon.is_listed(match.group()) and names_a_standing_thing(text, *match.span())

    def _matches(self, word: str) -> bool:
        if not self._forms or len(word) < 2:
            return False
        lower = normal(word)
        facts = self._lexicon.look_up(word.lower())
        # A patient called Белый must not take the white matter with him.
        if word[0].islower() and facts.ordinary and not self._is_likely_surname(word):
            return False
        if lower in self._forms:
            return True
        # A patient called Корень keeps the roots; in the report about one called Вебер he is no eponym.
        term = self._lexicon.is_medical(word) and not self._lexicon.is_eponym(word)
        if len(lower) < _SHORTEST_DECLINED or term:
            return False
        if not self._lemmas.isdisjoint(facts.lemmas):
            return True
        return len(lower) >= _SHORTEST_STEMMED and stem(lower) in self._stems

    def _is_likely_surname(self, word: str) -> bool:
        share = self._lexicon.look_up(word.lower()).name_share
        return share >= _LIKELY_SHARE and self._lexicon.has_surname_ending(word)


def harvest(lines: Iterable[str], finder: NameFinder, lexicon: Lexicon) -> HarvestedNames:
    """Collect the names in the lines outside the sections."""
    lines = [in_one_script(line) for line in lines]
    # One call for all lines; the empty lines between keep them apart.
    whole = "\n\n".join(lines)
    words = names_among(finder.find(whole), whole, lexicon)
    for line in lines:
        for match in _LABEL.finditer(line):
            words.update(word for word in _WORD.findall(match.group("name")) if _may_be_name(word, lexicon))
    return HarvestedNames(words, lexicon)


def names_among(spans: Iterable[Span], text: str, lexicon: Lexicon) -> set[str]:
    """The words in ``spans`` of ``text`` that tell a person: no «врач», no initials."""
    words = (word for span in spans for word in _WORD.findall(text[span.start : span.stop]))
    return {word for word in words if _may_be_name(word, lexicon)}


def _may_be_name(word: str, lexicon: Lexicon) -> bool:
    if len(word) < 2 or normal(word) in _NOT_NAMES:
        return False
    if not word[0].isupper():
        return lexicon.is_only_name(word)
    facts = lexicon.look_up(word.lower())
    if facts.name_share > 0 or lexicon.is_eponym(word):
        return True
    return not (lexicon.is_medical(word) or lexicon.is_learned(word))

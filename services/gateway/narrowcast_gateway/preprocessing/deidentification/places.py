"""Places and clinics told by the words around them: «переведён из Подольска», «Казань, РКБ»."""

import re
from collections.abc import Iterator

from narrowcast_gateway.preprocessing.deidentification.lexicon import LETTERS, Lexicon
from narrowcast_gateway.preprocessing.deidentification.name_context import (
    has_eponym_before,
    has_grade_behind,
)
from narrowcast_gateway.preprocessing.deidentification.placeholders import Kind, Span

# «в Нижнем Новгороде», «из Ростова-на-Дону».
_AFTER_PREPOSITION = re.compile(
    r"\b(?:[Ии]з|[Вв]о?|[Пп]од)\s(?P<datum>(?:[А-ЯЁ][а-яё]+(?:ый|ий|ой|ая|ое|ые|ого|его|ом|ем|ую|ых|их)\s)?"
    r"(?P<place>[А-ЯЁ][а-яё]+(?:-[А-ЯЁа-яё]+)*))"
)
# Without the preposition a sign or a line's end parts it on one side: «Казань, РКБ», «Уфа. МРТ», «г Уфа».
_APART = re.compile(
    rf"(?<![{LETTERS}\w-])(?P<datum>(?:(?:Нижн|Верхн|Велик|Стар|Нов|Южн|Северн)[а-яё]{{2,3}}\s)?"
    rf"(?P<place>[А-ЯЁ][а-яё]{{2,}}(?:-[А-ЯЁа-яё]+)*|[А-ЯЁ]{{5,}}(?:-[А-ЯЁ]+)*)"
    r"(?:,?[ \t](?:Д?Г?[РОГКЦ]КБ|ЦРБ|БСМП|РКОД|О?ОД)(?:[ \t]?№[ \t]?\d+)?)?)(?![\w-])"
)
_SIGN_BEFORE = re.compile(r"(?:^|[\n.,;:(»\"—–/-][ \t]?|(?<!\d)(?<!\d[ \t])\bг[ \t])$")
_SIGN_BEHIND = re.compile(r"[ \t]?(?:[.,;)/«\"\n]|$|[—–-][ \t])")
_SIGN_REACH = 5
# Scales are called after the towns they were made in: «Атланта 2012», «Чикагская классификация».
_SCALE_BEHIND = re.compile(
    r"\s(?:\d(?!\d?[./]\d\d)|[IVX]+(?!\w)|(?:классификаци|критери|шкал|консенсус|протокол|систем|пересмотр))"
)
# «наблюдается в Экомед», «анализ из Биолайт от 03.09»: a name in no dictionary after which no noun comes.
_UNKNOWN_CLINIC = re.compile(
    r"\b(?:[Вв]о?|[Ии]з|[Нн]а\sбазе)\s(?P<datum>(?P<name>[А-ЯЁ][а-яё]{3,}(?:-[А-ЯЁ][а-яё]+)?))"
    r"(?=[ \t]?(?:[.,;:()\n]|$)|\s(?:от|и)\s)"
)
# Quoted, with a capital, where a clinic is named: not after «контраст», «симптом», a colon.
_QUOTED = re.compile(r"«(?P<inside>[^«»\n]{2,60})»|\"(?P<inside_straight>[^\"\n]{2,60})\"")
_CLINIC_BEFORE = re.compile(r"(?:\b(?:[Вв]о?|[Ии]з|[Оо]т|[Нн]а\sбазе)[ \t]|[,;(/—–-][ \t]?)$")
_CLINIC_REACH = 9
_DOSE_BEHIND = re.compile(r"[ \t]?[-–]?[ \t]?\d")
_WORD = re.compile(rf"[{LETTERS}]+")
# «Елец» is a small fish too, «Вена» a vein as often as a town.
_LIKELY_PLACE = 0.7


def find_places(text: str, lexicon: Lexicon) -> Iterator[Span]:
    """Spans of places that are nothing else, and of the clinics that stand where one is named."""
    for match in _AFTER_PREPOSITION.finditer(text):
        if _is_place(match.group("place"), lexicon):
            yield Span(*match.span("datum"), Kind.ADDRESS)
    for match in _APART.finditer(text):
        if _is_place(match.group("place"), lexicon) and _stands_apart(match, text):
            yield Span(*match.span("datum"), Kind.ADDRESS)
    for match in _UNKNOWN_CLINIC.finditer(text):
        name = match.group("name")
        if not (lexicon.look_up(name.lower()).known or _is_term(name, lexicon)):
            yield Span(*match.span("datum"), Kind.INSTITUTION)
    for match in _QUOTED.finditer(text):
        if _is_clinic(match, text, lexicon):
            yield Span(match.start(), match.end(), Kind.INSTITUTION)


def _is_place(word: str, lexicon: Lexicon) -> bool:
    facts = lexicon.look_up(word.lower())
    likely = not facts.ordinary or facts.place_share >= _LIKELY_PLACE
    return facts.place and likely and not lexicon.is_medical(word)


def _is_term(word: str, lexicon: Lexicon) -> bool:
    return lexicon.is_medical(word) or lexicon.is_learned(word)


def _stands_apart(match: re.Match[str], text: str) -> bool:
    start, stop = match.span("datum")
    # «шкала Глазго», «Атланта 2012»
    if has_eponym_before(text, start, russian_form=False) or has_grade_behind(text, stop):
        return False
    if _SCALE_BEHIND.match(text, stop):
        return False
    before = _SIGN_BEFORE.search(text, max(0, start - _SIGN_REACH), start)
    return before is not None or _SIGN_BEHIND.match(text, stop) is not None


def _is_clinic(match: re.Match[str], text: str, lexicon: Lexicon) -> bool:
    inside = match.group("inside") or match.group("inside_straight")
    before = _CLINIC_BEFORE.search(text, max(0, match.start() - _CLINIC_REACH), match.start())
    if before is None or not inside[0].isupper() or _DOSE_BEHIND.match(text, match.end()):
        return False
    words = _WORD.findall(inside)
    if not words or any(_is_term(word, lexicon) for word in words):
        return False
    first = lexicon.look_up(words[0].lower())
    if len(words) == 1 and first.known and not first.noun:
        return False  # «Пустом» турецком седле
    # In capitals every quoted word has one: «ПО ТИПУ, "РУЧКИ ЛЕЙКИ"».
    return not inside.isupper() or any(not lexicon.look_up(word.lower()).known for word in words)

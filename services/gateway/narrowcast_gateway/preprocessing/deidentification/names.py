"""Finding people's names in Russian text.

Three witnesses, because each alone misses names: a neural tagger trained on news (weak on
lone surnames and blind to UPPER CASE), the dictionary of :mod:`lexicon` (blind to foreign
names), and the forms names are written in (initials, «врач …»). Any of them suffices,
unless the word is a known medical term or an ordinary word.
"""

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from narrowcast_gateway.preprocessing.deidentification.lexicon import Lexicon, has_foreign_letter
from narrowcast_gateway.preprocessing.deidentification.name_context import (
    has_eponym_before,
    has_grade_behind,
    has_role_before,
    has_signatory_before,
    is_role,
)
from narrowcast_gateway.preprocessing.deidentification.name_forms import (
    BEHIND_COLON,
    GAP,
    LATIN_AFTER_ROLE,
    LATIN_NAME,
    LATIN_WITH_INITIALS,
    OF_DICOM,
    ONE_INITIAL_BEHIND,
    ONLY_INITIALS,
    ROMAN,
    SMALL_WITH_INITIALS,
    TWO_INITIALS_BEFORE,
    WITH_INITIALS,
    WORD,
    rest_of_name,
)
from narrowcast_gateway.preprocessing.deidentification.name_tagger import NameTagger
from narrowcast_gateway.preprocessing.deidentification.placeholders import Kind, Span
from narrowcast_gateway.preprocessing.deidentification.shouting import (
    SHORTEST_TITLE_CASED,
    without_shouting,
)

_BREAK = re.compile(r"[.,;:\n\t]")
_SENTENCE_END = re.compile(r"(?:^|[.!?:;\n\t•)\]»\"]|\s[—–-])\s*$|^[\W_]*$")
_LONGEST_ABBREVIATION = 4
# «Врач: УЗД»
_NO_NAMES_OF_DOCTORS = frozenset(
    ["кт", "уз", "фд", "узд", "узи", "мрт", "мскт", "ркт", "лор", "орит", "экг", "црб", "ггп"]
)
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
    """Finds people's names; holds the tagger's models. Not thread-safe."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._tagger = NameTagger()

    def find(self, text: str) -> list[Span]:
        """Spans of names in ``text``, parts of one name joined, eponyms left alone."""
        shown, shouted = without_shouting(text)
        tagged = self._tagger.people(shown)
        words = [
            _Token(
                match.start(),
                match.end(),
                match.group(),
                at_start=_is_at_start(shown, match.start()),
                in_tag=_inside(match.span(), tagged),
                shouted=_inside(match.span(), shouted),
            )
            for match in WORD.finditer(shown)
        ]
        chosen = {(word.start, word.stop) for word in words if self._is_name(word, shown)}
        self._add_neighbours(words, chosen, shown)
        self._add_tagged_company(words, tagged, chosen)
        chosen.update(self._beside_surnames(words, chosen, shown))
        spans = [Span(start, stop + rest_of_name(shown, stop), Kind.PERSON) for start, stop in sorted(chosen)]
        spans.extend(self._behind_colon(shown))
        spans.extend(self._with_initials(shown, tagged))
        spans.extend(self._in_latin(text, tagged))
        return join_names(spans, text)

    def _is_name(self, token: _Token, text: str) -> bool:
        word = token.text
        # Most words are small and no names: asked first, because looking around costs more.
        if len(word) < 2 or (word[0].islower() and not self._small_is_name(token, text)):
            return False
        if self._is_protected(token, text):
            return False
        if word[0].islower():
            return True
        says_so = token.in_tag or has_role_before(text, token.start)
        parts = word.split("-")
        if len(parts) > 1 and not all(self._may_be_name_part(part) for part in parts):
            # «МР-картина», «УЗ-признаки»
            return self._is_double_surname(parts, says_so=says_so)
        if has_foreign_letter(word) or self._is_patronymic(word):
            return True
        if self._lexicon.look_up(word.lower()).known:
            return self._known_is_name(token, says_so=says_so)
        return self._unknown_is_name(token, text, says_so=says_so)

    def _is_patronymic(self, word: str) -> bool:
        return len(word) >= _SHORTEST_PATRONYMIC and self._lexicon.look_up(word.lower()).patronymic

    def _is_double_surname(self, parts: list[str], *, says_so: bool) -> bool:
        """«Гордеев-Задунайский», of which one part is an ordinary word."""
        says_so = says_so or all(map(self._lexicon.has_surname_ending, parts))
        return says_so and any(map(self._is_surname_by_form, parts))

    def _is_surname_by_form(self, word: str) -> bool:
        facts = self._lexicon.look_up(word.lower())
        likely = facts.name_share >= _NAME_SHARE_AT_START or not facts.ordinary
        return likely and self._lexicon.has_surname_ending(word)

    def _small_is_name(self, token: _Token, text: str) -> bool:
        if self._lexicon.is_only_name(token.text):
            return True
        facts = self._lexicon.look_up(token.text)
        if facts.known or facts.name_share < _NAME_SHARE_AT_START or "-" in token.text:
            return False
        return self._is_surname_by_form(token.text) and has_role_before(text, token.start)

    def _is_predicate(self, word: str) -> bool:
        """«Осмотрен», which no surname is unless it ends as one: «Лютикова»."""
        return self._lexicon.look_up(word.lower()).predicate and not self._lexicon.has_surname_ending(word)

    def _known_is_name(self, token: _Token, *, says_so: bool) -> bool:
        facts = self._lexicon.look_up(token.text.lower())
        if facts.name_share >= _name_share_needed(token):
            return True
        if not says_so or self._is_predicate(token.text):
            return False
        # Capitals inside a sentence and a witness outweigh an ordinary reading: «Мороз».
        return not (token.at_start or token.shouted) or facts.name_share > 0 or not facts.ordinary

    def _unknown_is_name(self, token: _Token, text: str, *, says_so: bool) -> bool:
        word = token.text
        if self._lexicon.is_learned(word):
            return False
        facts = self._lexicon.look_up(word.lower())
        # A capital inside a sentence is worth a reading: «выполнено Перминовой».
        likely = facts.name_share >= _name_share_needed(token) or not (token.at_start or token.shouted)
        looks_so = likely and self._lexicon.has_surname_ending(word)
        if not token.shouted:
            return says_so or looks_so
        # Abbreviations and rare terms look like names to the tagger here.
        if len(word) <= _LONGEST_ABBREVIATION:
            return False
        if says_so and (facts.noun or has_role_before(text, token.start)):
            return True
        return facts.name_share >= _NAME_SHARE_AT_START or looks_so

    def _is_protected(self, token: _Token, text: str) -> bool:
        """Abbreviations, medical terms and eponyms: «киста Бейкера», «по Забрамски»."""
        word = token.text
        if not token.shouted and word.isupper() and len(word) <= _LONGEST_ABBREVIATION:
            return True
        if has_role_before(text, token.start):
            return False
        if self._lexicon.is_medical(word) and not self._lexicon.is_eponym(word):
            return True
        # «Бейкера» is the cyst's; «Вебер» and «Вебером» are so only beside a word or a grade that says so.
        if self._lexicon.is_listed(word) or (
            self._lexicon.is_eponym(word) and has_grade_behind(text, token.stop)
        ):
            return True
        return has_eponym_before(text, token.start, russian_form=self._lexicon.has_surname_ending(word))

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
        if self._lexicon.is_medical(word):
            return False
        # «Осмотрен Пётр Ильич», but «Цыренова Дарима Баировна»: that capital says more than the dictionary.
        if self._is_predicate(word) and (after or near.at_start or near.shouted):
            return False
        if not word[0].isupper():
            return self._lexicon.is_only_name(word) or (not after and self._is_surname_by_form(word))
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
            inside = words[
                bisect_left(words, start, key=lambda word: word.start) : bisect_right(
                    words, stop, key=lambda word: word.stop
                )
            ]
            certain = [number for number, word in enumerate(inside) if (word.start, word.stop) in chosen]
            for number, word in enumerate(inside):
                facts = self._lexicon.look_up(word.text.lower())
                beside = [inside[other] for other in certain if abs(other - number) == 1]
                if not beside or self._lexicon.is_learned(word.text) or is_role(word.text):
                    continue
                if self._is_predicate(word.text):
                    continue  # «Осмотрен Николай»
                first_name = any(self._lexicon.look_up(other.text.lower()).first_name for other in beside)
                if first_name or not (facts.ordinary or word.shouted or self._lexicon.is_medical(word.text)):
                    chosen.add((word.start, word.stop))

    def _beside_surnames(
        self, words: list[_Token], chosen: set[tuple[int, int]], text: str
    ) -> set[tuple[int, int]]:
        """First names right beside a surname: in capitals, or in no dictionary: «Степанян Карине»."""
        found: set[tuple[int, int]] = set()
        for before, after in itertools.pairwise(words):
            if text[before.stop : after.start].strip(" "):
                continue
            for name, near in ((before, after), (after, before)):
                if (name.start, name.stop) in chosen and self._may_be_first_name(near, text):
                    found.add((near.start, near.stop))
        return found

    def _may_be_first_name(self, near: _Token, text: str) -> bool:
        word = near.text
        facts = self._lexicon.look_up(word.lower())
        if not word[0].isupper() or near.shouted or facts.ordinary or len(word) < SHORTEST_TITLE_CASED:
            return False
        if facts.first_name or word.isupper():
            return facts.first_name
        return not self._lexicon.is_learned(word) and not self._is_protected(near, text)

    def _behind_colon(self, text: str) -> Iterator[Span]:
        """Names behind a role's colon, whatever else their words may be: «Врач: Пак», «Муж: Чан Ван Минь»."""
        for match in BEHIND_COLON.finditer(text):
            start, stop = match.span("name")
            if has_role_before(text, start) and self._is_behind_colon(
                match.group("name").split(), text, start
            ):
                yield Span(start, stop + rest_of_name(text, stop), Kind.PERSON)

    def _is_behind_colon(self, words: list[str], text: str, start: int) -> bool:
        if any(
            is_role(word)
            or word.lower() in _NO_NAMES_OF_DOCTORS
            or self._lexicon.is_learned(word)
            or (self._lexicon.is_medical(word) and not self._lexicon.is_eponym(word))
            for word in words
        ):
            return False
        if has_signatory_before(text, start):
            # «Врач: Безрук», but «Врач: Рекомендовано».
            return not (words[0].endswith("о") and self._is_predicate(words[0]))
        # «Пациент: Мужчина», but «Муж: Чан Ван Минь».
        facts = [self._lexicon.look_up(word.lower()) for word in words]
        return (
            len(words) > 1
            and any(not fact.ordinary or fact.name_share > 0 for fact in facts)
            and not any(map(self._is_predicate, words))
        )

    def _in_latin(self, text: str, tagged: list[tuple[int, int]]) -> Iterator[Span]:
        """Names in Latin letters: tagged ones of two words, with initials, after «пациент»."""
        for start, stop in tagged:
            words = [word for word in LATIN_NAME.findall(text[start:stop]) if not ROMAN.fullmatch(word)]
            if len(words) > 1 and not any(self._lexicon.is_medical(word) for word in words):
                yield Span(start, stop, Kind.PERSON)
        for match in itertools.chain(LATIN_WITH_INITIALS.finditer(text), OF_DICOM.finditer(text)):
            if not any(self._lexicon.is_medical(word) for word in LATIN_NAME.findall(match.group())):
                yield Span(match.start(), match.end(), Kind.PERSON)
        for match in LATIN_AFTER_ROLE.finditer(text):
            words = LATIN_NAME.findall(match.group())
            if has_role_before(text, match.start()) and not any(map(self._lexicon.is_medical, words)):
                yield Span(match.start(), match.end(), Kind.PERSON)

    def _with_initials(self, text: str, tagged: list[tuple[int, int]]) -> Iterator[Span]:
        taken: set[int] = set()
        for pattern in WITH_INITIALS:
            for match in pattern.finditer(text):
                # «ИВАНОВ П.И. Киста»: these initials have their surname.
                if match.start() not in taken and self._is_with_initials(match, text, tagged):
                    taken.update(range(match.start(), match.end()))
                    yield Span(match.start(), match.end(), Kind.PERSON)
        for match in SMALL_WITH_INITIALS.finditer(text):
            if self._lexicon.is_only_name(match.group("surname")):
                yield Span(match.start(), match.end(), Kind.PERSON)
        for match in ONLY_INITIALS.finditer(text):
            if has_role_before(text, match.start()):
                yield Span(match.start(), match.end(), Kind.PERSON)

    def _is_with_initials(self, match: re.Match[str], text: str, tagged: list[tuple[int, int]]) -> bool:
        word = match.group("surname")
        facts = self._lexicon.look_up(word.lower())
        term = self._lexicon.is_medical(word) and not self._lexicon.is_eponym(word)
        match match.re:
            case pattern if pattern is TWO_INITIALS_BEFORE:
                return not term
            case pattern if pattern is ONE_INITIAL_BEHIND:
                return not (facts.known or term or word.isupper() or self._lexicon.is_learned(word))
        if not facts.ordinary or facts.name_share > 0:
            return True
        if has_role_before(text, match.start()):
            return not is_role(word)
        # «Сегмент А.В.»: an ordinary word before initials is a surname if the tagger says so («Шаповал И.Г.»)
        # or by its form and its capital.
        says_so = _inside(match.span("surname"), tagged) or (
            self._lexicon.has_surname_ending(word) and not _is_at_start(text, match.start())
        )
        return says_so and not term


def join_names(spans: list[Span], text: str) -> list[Span]:
    """Join name parts that only blanks, hyphens, dots or initials part."""
    joined: list[Span] = []
    for span in sorted(spans):
        if (
            joined
            and GAP.fullmatch(text[joined[-1].stop : span.start]) is not None
            and span.start >= joined[-1].stop
        ) or (joined and span.start < joined[-1].stop):
            joined[-1] = Span(joined[-1].start, max(joined[-1].stop, span.stop), Kind.PERSON)
        else:
            joined.append(span)
    return joined


def _name_share_needed(token: _Token) -> float:
    if token.shouted:
        return _NAME_SHARE_SHOUTED
    return _NAME_SHARE_AT_START if token.at_start else _NAME_SHARE_INSIDE


def _is_at_start(text: str, position: int) -> bool:
    return position == 0 or _SENTENCE_END.search(text[max(0, position - 4) : position]) is not None


def _inside(word: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    """Whether one of ``spans``, in order and not overlapping, covers ``word``."""
    position = bisect_right(spans, word[0], key=lambda span: span[0]) - 1
    return position >= 0 and word[1] <= spans[position][1]

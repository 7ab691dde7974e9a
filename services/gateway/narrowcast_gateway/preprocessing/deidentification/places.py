"""Places told by the dictionary: «переведён из Подольска», where no «г.» says so."""

import re
from collections.abc import Iterator

from narrowcast_gateway.preprocessing.deidentification.lexicon import Lexicon
from narrowcast_gateway.preprocessing.deidentification.placeholders import Kind, Span

# «в Нижнем Новгороде», «из Ростова-на-Дону». Without the preposition it may be a grade: «шкала Глазго».
_AFTER_PREPOSITION = re.compile(
    r"\b(?:[Ии]з|[Вв]о?|[Пп]од)\s(?P<datum>(?:[А-ЯЁ][а-яё]+(?:ый|ий|ой|ая|ое|ые|ого|его|ом|ем|ую|ых|их)\s)?"
    r"(?P<place>[А-ЯЁ][а-яё]+(?:-[А-ЯЁа-яё]+)*))"
)


def find_places(text: str, lexicon: Lexicon) -> Iterator[Span]:
    """Spans of places after «в» and «из» that are nothing else."""
    for match in _AFTER_PREPOSITION.finditer(text):
        word = match.group("place")
        facts = lexicon.look_up(word.lower())
        if facts.place and not facts.ordinary and not lexicon.is_medical(word):
            yield Span(*match.span("datum"), Kind.ADDRESS)

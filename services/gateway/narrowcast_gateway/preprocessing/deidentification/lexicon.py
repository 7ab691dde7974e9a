"""What a single word may be: a name, an ordinary word, a medical term.

pymorphy3 carries OpenCorpora's dictionary, which marks surnames, first names and
patronymics, and predicts the same for words it does not know. Medical words missing from
that dictionary stand in ``medical_terms.txt``, eponyms among them.
"""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

import pymorphy3

# The Russian alphabet and the letters that its neighbours add to it, Kazakh to Ukrainian.
SMALL_LETTERS = "а-яёєіїўґғҗқңҫүұһәөҳҷӣӯ"
CAPITALS = SMALL_LETTERS.upper()
LETTERS = CAPITALS + SMALL_LETTERS
# Not і and ї, typed for Latin i's: «І ст.»
_FOREIGN_LETTER = re.compile(r"[єўґғҗқңҫүұһәөҳҷӣӯ]", re.IGNORECASE)

# A Latin letter inside a Cyrillic word hides a name: «Ceменов».
_MIXED_WORD = re.compile(
    r"(?<![A-Za-zА-Яа-яЁё])(?=[A-Za-z]*[А-Яа-яЁё])(?=[А-Яа-яЁё]*[A-Za-z])[A-Za-zА-Яа-яЁё]{4,}"
)
_LOOKALIKES = str.maketrans("ABCEHKMOPTXYaceopxy", "АВСЕНКМОРТХУасеорху")

_PREDICATES = frozenset(["ADJS", "PRTS", "VERB", "INFN", "GRND", "ADVB", "PRED"])
_NAME_GRAMMEMES = ("Surn", "Name", "Patr")

_PATRONYMIC = re.compile(
    r"(?:ович|евич|ьич|[ои]?нич)(?:а|у|ем|ом|е)?$|(?:овн|евн|иничн|ичн)(?:а|ы|е|у|ой|ою)$|(?:оглы|кызы)$",
    re.IGNORECASE,
)
# Endings of Russian and neighbouring surnames in any case.
_SURNAME = re.compile(
    r"(?:[оеё]в|[иы]н)(?:а|у|ым|е|ой|ы|ых)?$|(?:ск|цк)(?:ий|ого|ому|им|ом|ая|ой|ую)$|(?:енко|чук|юк|ук|швили|дзе|идзе|ия|ян|янц|ец|оглы)(?:а|у|ом|е)?$",
    re.IGNORECASE,
)
# Endings of learned words, which the dictionary of a general corpus mostly lacks.
_LEARNED = re.compile(
    r"(?:целе|ци[яиюей]+|зи[яиюей]+|фи[яиюей]+|пати[яиюей]+|мегали[яиюей]+|рони[яиюей]+|еми[яиюей]+|оми[яиюей]+|плази[яиюей]+|оз(?:а|у|ом|е|ы)?|ит(?:а|у|ом|е|ы)?|ом(?:а|ы|е|у|ой)|ост(?:ь|и|ью)|[ае]ни(?:е|я|ю|ем|и)"
    r"|(?:альн|арн|лярн|ическ|озн|орн|енн|анн|ионн|яющ|ующ|ённ|ивн|ильн|ельн)(?:ый|ая|ое|ые|ого|ой|ому|ым|ых|ую|ом|ий|их|ими|ыми)|(?:льно|рно|ески|идно|озно)|мие?ли[яиюей]+|граф\w+|лог(?:а|у|ом|и|ов|ам)?|скоп\w+|томи\w+|метр\w*)$",
    re.IGNORECASE,
)
# And beginnings («долихосигма»); some surnames begin so too.
_LEARNED_BEGINNING = re.compile(
    r"(?:ангио|артро|бронхо|вентрикуло|гастро|гепато|гидро|гипер|гипо|долихо|кардио|лимфо|мега|микро|макро|миело|нейро|нефро|остео|пиело|пневмо|псевдо|пери|ретро|спондило|супра|транс|хондро|холе|цисто|энтеро|эндо)",
    re.IGNORECASE,
)
_ENDING = re.compile(
    r"(?:ами|ями|ого|его|ому|ему|ыми|ими|ою|ею|ой|ей|ый|ий|ая|яя|ую|юю|ом|ем|ым|им|ых|их|ов|ев|ах|ях|а|я|о|е|ы|и|у|ю|ь|й)$"
)
_ENDING_OF_ADJECTIVE = re.compile(r"(?<=[оеё]в)(?:а|о|у|ы|ой|ом|ым|ых|ому|ыми)$")
_SHORTEST_STEM = 3
_VOCABULARY_CACHE = 50_000
_EPONYMS_HEADING = "# Eponyms"
# Of a word's readings those that are names. «иванов» is rarely what belongs to Ivan.
_LIKELY_SHARE = 0.5
_SURE_SHARE = 0.95
# «мг/ден», «рад»
_SHORTEST_SMALL_NAME = 4


@dataclass(frozen=True)
class Word:
    """One word form as the dictionary sees it.

    Attributes:
        lemmas: normal forms of all readings.
        name_share: probability, 0 to 1, of the readings that are names.
        known: in the dictionary, not predicted from its ending.
        ordinary: known with a reading that is no name.
        place: known with a reading that is a place.
        place_share: probability, 0 to 1, of the readings that are places.
        patronymic: a patronymic for certain.
        first_name: known, and a first name more often than anything else.
        noun: a noun more often than anything else.
        predicate: known as a short form, a verb or an adverb alone: «обследован».
    """

    lemmas: frozenset[str]
    name_share: float
    known: bool
    ordinary: bool
    place: bool
    place_share: float
    patronymic: bool
    first_name: bool
    noun: bool
    predicate: bool


class Lexicon:
    """Dictionary look-ups, cached; reports repeat a small vocabulary."""

    def __init__(self) -> None:
        self._morphology = pymorphy3.MorphAnalyzer()
        self.look_up = functools.lru_cache(maxsize=_VOCABULARY_CACHE)(self._look_up)
        eponyms, terms = _read_terms()
        self._terms = frozenset([*eponyms, *terms])
        self._term_stems = _stems(self._terms)
        self._eponym_stems = _stems(eponyms)

    def _look_up(self, lower: str) -> Word:
        readings = self._morphology.parse(lower)
        total = sum(reading.score for reading in readings) or 1.0
        names = [
            reading for reading in readings if any(grammeme in reading.tag for grammeme in _NAME_GRAMMEMES)
        ]
        known = [reading for reading in readings if reading.is_known]
        return Word(
            lemmas=frozenset(reading.normal_form.replace("ё", "е") for reading in readings),
            name_share=sum(reading.score for reading in names) / total,
            known=bool(known),
            ordinary=any(
                not any(grammeme in reading.tag for grammeme in (*_NAME_GRAMMEMES, "Geox", "Orgn"))
                for reading in known
            ),
            place=any("Geox" in reading.tag for reading in known),
            place_share=sum(reading.score for reading in known if "Geox" in reading.tag) / total,
            noun="NOUN" in readings[0].tag,
            predicate=bool(known) and all(reading.tag.POS in _PREDICATES for reading in known),
            first_name=bool(known) and "Name" in readings[0].tag,
            patronymic=any("Patr" in reading.tag for reading in known) or bool(_PATRONYMIC.search(lower)),
        )

    def is_only_name(self, word: str) -> bool:
        """Whether ``word`` is nothing but a person's name, so that its small first letter says nothing."""
        facts = self.look_up(word.lower())
        if not facts.known or facts.place or len(word) < _SHORTEST_SMALL_NAME:
            return False
        if facts.name_share < (_SURE_SHARE if facts.ordinary else _LIKELY_SHARE):
            return False
        return facts.patronymic or facts.first_name or self.has_surname_ending(word)

    def is_medical(self, word: str) -> bool:
        """Whether ``word``, or all its parts, in any form is in the list of medical terms and eponyms."""
        lower = normal(word)
        if lower in self._terms or (len(lower) > _SHORTEST_STEM and stem(lower) in self._term_stems):
            return True
        # «Арнольда-Киари»
        parts = lower.split("-")
        return len(parts) > 1 and all(map(self.is_medical, parts))

    def is_listed(self, word: str) -> bool:
        """Whether ``word`` stands in that list in this very form, or is made of words in it."""
        if normal(word) in self._terms or ("-" in word and self.is_medical(word)):
            return True
        # «Сильвиеву щель» of «Сильвиев»: an adjective.
        return _ENDING_OF_ADJECTIVE.sub("", normal(word)) in self._terms

    def is_eponym(self, word: str) -> bool:
        """Whether ``word`` in any form is a name that medicine uses; people are called so too."""
        return any(stem(part) in self._eponym_stems for part in (word, *word.split("-")))

    def is_learned(self, word: str) -> bool:
        """Whether an unknown ``word`` is made like a medical term or an adverb, not like a name."""
        if self.look_up(word.lower()).known:
            return False
        begins_so = _LEARNED_BEGINNING.match(word) is not None and not self.has_surname_ending(word)
        return begins_so or _LEARNED.search(word) is not None

    def has_surname_ending(self, word: str) -> bool:
        """Whether ``word`` ends as most surnames do."""
        return bool(_SURNAME.search(word))


def has_foreign_letter(word: str) -> bool:
    """Whether ``word`` has a Cyrillic letter that Russian lacks: no word of a report but a name has."""
    return _FOREIGN_LETTER.search(word) is not None


def in_one_script(text: str) -> str:
    """``text`` with Latin letters that look Cyrillic made so inside Cyrillic words; positions stay."""
    return _MIXED_WORD.sub(_in_one_script, text)


def _in_one_script(match: re.Match[str]) -> str:
    word = match.group().translate(_LOOKALIKES)
    return match.group() if re.search("[A-Za-z]", word) else word


def normal(word: str) -> str:
    """Lower case, ё as е: both spellings of a name are one name."""
    return word.lower().replace("ё", "е")


def stem(word: str) -> str:
    """``word`` without its case ending; never shorter than three letters."""
    lower = normal(word)
    cut = _ENDING.sub("", lower)
    return cut if len(cut) >= _SHORTEST_STEM else lower


def _stems(words: Iterable[str]) -> frozenset[str]:
    return frozenset(stem(word) for word in words if len(word) > _SHORTEST_STEM)


def _read_terms() -> tuple[list[str], list[str]]:
    """Eponyms and other terms; each part of the file says by its heading which it has."""
    text = resources.files(__package__).joinpath("medical_terms.txt").read_text(encoding="utf-8")
    eponyms: list[str] = []
    terms: list[str] = []
    part = terms
    for line in text.splitlines():
        if line.startswith("#"):
            part = eponyms if line.startswith(_EPONYMS_HEADING) else terms
        else:
            part += (normal(word) for word in line.split())
    return eponyms, terms

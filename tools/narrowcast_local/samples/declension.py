"""Case forms of Russian surnames, first names and patronymics.

Only the forms that reports use (genitive, dative, instrumental), for the endings that occur in
``names``; a morphology library would guess at rare surnames, here the lists are ours.
"""

from collections.abc import Mapping
from typing import Literal

Case = Literal["nom", "gen", "dat", "ins"]
Gender = Literal["m", "f"]
Endings = Mapping[Case, str]

_HUSHING = "жшчщц"  # «-ем» and «-ей» where other consonants take «-ом» and «-ой»
_VELAR_OR_HUSHING = "гкхжшчщ"  # «-и» where other consonants take «-ы»
_UNCHANGED_FIRST_PARTS = {"Кара", "Гулак"}
_STEMS = {"Павел": "Павл", "Пётр": "Петр", "Лев": "Льв"}
_SPECIAL: Mapping[str, Endings] = {
    "Любовь": {"gen": "Любови", "dat": "Любови", "ins": "Любовью"},
    "Илья": {"gen": "Ильи", "dat": "Илье", "ins": "Ильёй"},
}
_PATRONYMICS = {
    "Дмитрий": ("Дмитриевич", "Дмитриевна"),
    "Георгий": ("Георгиевич", "Георгиевна"),
    "Илья": ("Ильич", "Ильинична"),
    "Никита": ("Никитич", "Никитична"),
    "Лев": ("Львович", "Львовна"),
    "Михаил": ("Михайлович", "Михайловна"),
    "Яков": ("Яковлевич", "Яковлевна"),
    "Гаджи": ("Гаджиевич", "Гаджиевна"),
    "Павел": ("Павлович", "Павловна"),
    "Пётр": ("Петрович", "Петровна"),
}


def surname(masculine: str, gender: Gender, case: Case = "nom") -> str:
    """Return a surname's form; each half of a double-barrelled one is declined."""
    first, dash, second = masculine.partition("-")
    if dash:
        head = first if first in _UNCHANGED_FIRST_PARTS else _single_surname(first, gender, case)
        return f"{head}-{_single_surname(second, gender, case)}"
    return _single_surname(masculine, gender, case)


def _single_surname(word: str, gender: Gender, case: Case) -> str:
    if word.endswith(("ов", "ев", "ёв", "ин", "ын")):
        if gender == "f":
            return word + ("а" if case == "nom" else "ой")
        return word + {"nom": "", "gen": "а", "dat": "у", "ins": "ым"}[case]
    if word.endswith(("ый", "ий", "ой")):
        return _adjective(word, gender, case)
    if word.endswith(("а", "я")):
        return _first_declension(word, case)
    if gender == "f" or word[-1] in "оеёиуыэю" or word.endswith(("ых", "их")):
        return word
    return _second_declension(word, case)


def _adjective(word: str, gender: Gender, case: Case) -> str:
    stem = word[:-2]
    if gender == "f":
        return stem + ("ая" if case == "nom" else "ой")
    soft = word.endswith("ий") or stem[-1] in _VELAR_OR_HUSHING
    return {"nom": word, "gen": stem + "ого", "dat": stem + "ому", "ins": stem + ("им" if soft else "ым")}[
        case
    ]


def _first_declension(word: str, case: Case) -> str:
    stem, last = word[:-1], word[-1]
    if case == "nom":
        return word
    if word.endswith("ия"):
        return stem + {"gen": "и", "dat": "и", "ins": "ей"}[case]
    if last == "я":
        return stem + {"gen": "и", "dat": "е", "ins": "ей"}[case]
    return (
        stem
        + {
            "gen": "и" if stem[-1] in _VELAR_OR_HUSHING else "ы",
            "dat": "е",
            "ins": "ей" if stem[-1] in _HUSHING else "ой",
        }[case]
    )


def _second_declension(word: str, case: Case) -> str:
    if case == "nom":
        return word
    if word[-1] in "йь":
        return word[:-1] + {"gen": "я", "dat": "ю", "ins": "ем"}[case]
    return word + {"gen": "а", "dat": "у", "ins": "ем" if word[-1] in _HUSHING else "ом"}[case]


def first_name(name: str, gender: Gender, case: Case = "nom") -> str:
    """Return a first name's form; names that end in another vowel («Нино») stay as they are."""
    if case == "nom":
        return name
    if name in _SPECIAL:
        return _SPECIAL[name][case]
    if name[-1] in "ая":
        return _first_declension(name, case)
    if name[-1] in "оеёиуыэю":
        return name
    if gender == "m":
        return _second_declension(_STEMS.get(name, name), case)
    if name[-1] == "ь":  # «Айгуль»
        return name[:-1] + {"gen": "и", "dat": "и", "ins": "ью"}[case]
    return name  # a woman's name in a hard consonant («Патимат») does not change


def patronymic(father: str, gender: Gender, case: Case = "nom") -> str:
    """Return the patronymic made of the father's first name."""
    index = 0 if gender == "m" else 1
    if father in _PATRONYMICS:
        word = _PATRONYMICS[father][index]
    elif father.endswith("ий"):
        word = father[:-2] + ("ьевич", "ьевна")[index]
    elif father[-1] in "йь":
        word = father[:-1] + ("евич", "евна")[index]
    else:
        word = father + ("ович", "овна")[index]
    return _second_declension(word, case) if gender == "m" else _first_declension(word, case)

"""The forms that names are written in: with initials, in Latin letters, as DICOM has them."""

import re

from narrowcast_gateway.preprocessing.deidentification.lexicon import CAPITALS, LETTERS, SMALL_LETTERS

# «ВрачПетрова» is two words that lost their blank, «МакМюррея» is one.
_PART = rf"(?:(?:Мак(?=[{CAPITALS}]))?[{CAPITALS}]*[{SMALL_LETTERS}]+|[{CAPITALS}]+)"
WORD = re.compile(rf"{_PART}(?:-{_PART})*")
_INITIAL = rf"[{CAPITALS}]\.\s?"
_SURNAME_PART = rf"[{CAPITALS}](?:[{SMALL_LETTERS}]+|[{CAPITALS}]+)"
# With a hyphen, or cut short: «К-в П.И.»
_SURNAME = rf"(?:{_SURNAME_PART}(?:-{_SURNAME_PART})?|[{CAPITALS}]-[{SMALL_LETTERS}]{{1,3}})"
_BOUNDARY = rf"(?<![{CAPITALS}\d_.-])"
TWO_INITIALS_BEFORE = re.compile(rf"{_BOUNDARY}(?:{_INITIAL}){{2}}(?P<surname>{_SURNAME})")
ONE_INITIAL_BEHIND = re.compile(rf"{_BOUNDARY}(?P<surname>{_SURNAME_PART})[ \t][{CAPITALS}]\.")
# Searched one by one: where «Врач Ю. С.» is no name, «Ю. С. Ян» behind it is.
WITH_INITIALS = (
    re.compile(rf"{_BOUNDARY}(?P<surname>{_SURNAME})\s*{_INITIAL}(?:[{CAPITALS}]\.|[{CAPITALS}]\b)"),
    TWO_INITIALS_BEFORE,
    re.compile(rf"{_BOUNDARY}{_INITIAL}(?P<surname>{_SURNAME})"),
    ONE_INITIAL_BEHIND,
)
SMALL_WITH_INITIALS = re.compile(
    rf"(?<![\w.])(?P<surname>[{SMALL_LETTERS}]{{3,}})\s+[{SMALL_LETTERS}]\.\s?[{SMALL_LETTERS}]\."
)
# Three initials are a name after «пациент» alone: «Л.Д.», «П.Д.» are lobes.
ONLY_INITIALS = re.compile(rf"(?<![\w.])(?:{_INITIAL}){{2}}[{CAPITALS}]\.")
# What follows a name and is part of it: initials, with or without dots, «оглы», the end of a divided word.
_REST_OF_NAME = re.compile(
    rf"(?:-\n[{SMALL_LETTERS}]+)?"
    rf"(?:[ \t]{{1,3}}[{CAPITALS}]\.(?:[ \t]{{0,3}}[{CAPITALS}]\.)?"
    rf"|[ \t](?!т\.)[{SMALL_LETTERS}]\.[ \t]?[{SMALL_LETTERS}]\."
    rf"|[ \t][{CAPITALS}][ \t][{CAPITALS}](?!\w)|[ \t][{CAPITALS}](?=[.,;])"
    r"|[ \t-](?:оглы|огли|кызы|кизи|угли|заде)(?!\w))?"
)

# Not «ECOG», «ASA III».
_CAPITALS_BEHIND = r"(?=[ ,](?![IVX]+\b)[A-Z]{3,}(?!\w))"
_LATIN_WORD = (
    rf"(?:[A-ZÀ-Þ][a-zà-ÿ'’]+|[A-Z]{{5,}}|[A-Z]{{2,}}{_CAPITALS_BEHIND}"
    r"|(?<=[A-Z][ ,])(?![IVX]+\b)[A-Z]{3,})"
    r"(?:-[A-Z][a-z]+)?(?![\w-])"
)
_LATIN_INITIALS = r"[A-Z]\.\s?[A-Z]\."
# As PACS and passports write them. One Latin word alone is an eponym or a trade mark.
LATIN_WITH_INITIALS = re.compile(
    rf"(?<![\w.])(?P<surname>[A-Z][a-z]{{2,}})\s+{_LATIN_INITIALS}|(?<![\w.]){_LATIN_INITIALS}\s?(?P<surname_after>[A-Z][a-z]{{2,}})"
)
OF_DICOM = re.compile(rf"(?<![\w'-])[A-Z{CAPITALS}][A-Za-z{LETTERS}'-]+\^[A-Za-z{LETTERS}^]+")
LATIN_AFTER_ROLE = re.compile(
    rf"(?!Patient|Dr\b|Mrs?\b)(?:{_LATIN_WORD}(?:[ _,]+(?:{_LATIN_WORD}|[A-Z](?:\.|(?![A-Za-z]))))*"
    r"|[A-Z][a-z]+(?:_[A-Z][a-z]*)+)"
)
LATIN_NAME = re.compile(r"[A-ZÀ-Þ][A-Za-zÀ-ÿ'’-]+")
# «Guy II»
ROMAN = re.compile(r"[IVX]+")
# All that stands behind a colon, to the end of the line or the clause: «Врач: Ван», «Муж: Чан Ван Минь».
BEHIND_COLON = re.compile(
    rf"(?<=:)[ \t_]*(?P<name>{_SURNAME_PART}(?:-{_SURNAME_PART})?(?:[ \t]{_SURNAME_PART}){{0,2}})"
    rf"(?=[ \t]{{0,3}}(?:[.,;()\n]|$|[{CAPITALS}]\.|тел))"
)
# What may stand between two parts of one name.
GAP = re.compile(rf"(?:[ \t]{{0,3}}|[ \t]?-[ \t]?)(?:[{CAPITALS}]\.[ \t]?){{0,2}}")


_INITIALS_BEFORE = re.compile(rf"(?<![\w.])(?:{_INITIAL}){{1,2}}$")
_INITIALS_REACH = 7


def initials_before(text: str, position: int) -> int:
    """Length of the initials before the name that begins at ``position``."""
    match = _INITIALS_BEFORE.search(text, max(0, position - _INITIALS_REACH), position)
    return len(match.group()) if match else 0


def rest_of_name(text: str, position: int) -> int:
    """Length of what belongs to the name that ends at ``position``: initials, «оглы», a cut-off end."""
    match = _REST_OF_NAME.match(text, position)
    return match.end() - position if match else 0

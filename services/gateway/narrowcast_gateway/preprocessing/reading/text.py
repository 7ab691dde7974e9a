"""What a reader hands on: lines of text, and tests of whether a text is really text."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

# Anything printable Russian reports use; controls and private-use signs (Symbol and
# Wingdings bullets) are layout left over from Word.
_UNWANTED = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060\ufeff\ufff0-\uffff\ue000-\uf8ff]"
)
_SPACES = re.compile(r"[ \u00a0\u2000-\u200a\u202f\u205f\u3000]+")
# Signs that look like others would hide a name or a date: hyphens that do not break, one dot of a leader,
# a stress mark.
_LOOKALIKES = {0x2010: "-", 0x2011: "-", 0x2012: "-", 0x2024: ".", 0x0301: ""}
# After those of spaces: a run of them that ends in no tab would take time by its square.
_TABS = re.compile(r" ?\t[ \t]*")

_CYRILLIC = re.compile(r"[А-Яа-яЁё]")
_LATIN1_LETTER = re.compile(r"[À-ÿ]")
_LETTER = re.compile(r"[^\W\d_]")

# Western European text has accents on a tenth of its letters at most; Russian in the
# wrong code page has them on nearly all.
MOJIBAKE_SHARE = 0.3


@dataclass(frozen=True)
class DocumentText:
    """Text of a document, one paragraph or table row a line.

    Attributes:
        body: lines in reading order, not empty, cells of a table row parted by tabs.
        header_footer: lines of page headers, footers, notes and comments. They never become
            part of a dataset row; names are harvested from them.
        reader: which reader opened the file.
    """

    body: tuple[str, ...]
    header_footer: tuple[str, ...]
    reader: str


def clean_lines(raw: Iterable[str]) -> tuple[str, ...]:
    """Drop controls and layout signs, squeeze blanks, split at line breaks, drop empty lines.

    A letter becomes one sign: «й» may come as two.
    """
    lines = []
    for part in raw:
        text = unicodedata.normalize("NFC", part).translate(_LOOKALIKES)
        for line in re.split(r"[\n\r\v\f\u2028\u2029]", text):
            cleaned = _TABS.sub("\t", _SPACES.sub(" ", _UNWANTED.sub("", line))).strip(" \t")
            if cleaned:
                lines.append(cleaned)
    return tuple(lines)


def is_mojibake(text: str) -> bool:
    """Whether Cyrillic text was decoded as Western European."""
    latin1 = len(_LATIN1_LETTER.findall(text))
    letters = len(_LETTER.findall(text))
    return letters > 0 and latin1 / letters > MOJIBAKE_SHARE and latin1 > len(_CYRILLIC.findall(text))


def repair_mojibake(text: str) -> str:
    """Decode again as cp1251 what was decoded as cp1252, where that is what happened."""
    if not is_mojibake(text):
        return text
    return "".join(_as_cyrillic(sign) for sign in text)


def _as_cyrillic(sign: str) -> str:
    if ord(sign) < 0x80:
        return sign
    try:
        return sign.encode("cp1252").decode("cp1251")
    except UnicodeError:
        return sign

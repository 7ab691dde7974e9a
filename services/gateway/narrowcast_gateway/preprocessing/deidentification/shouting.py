"""Lines in UPPER CASE, in which taggers and capitals say nothing: made to look like the others."""

import re

from narrowcast_gateway.preprocessing.deidentification.name_forms import WORD

_CAPITALS_SHARE = 0.6
SHORTEST_TITLE_CASED = 3
"""Letters of a word that is not left as it is, for an abbreviation."""


def without_shouting(text: str) -> tuple[str, list[tuple[int, int]]]:
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
            lines.append(WORD.sub(_title_case, line))
        else:
            lines.append(line)
        position += len(line)
    return "".join(lines), shouted


def _title_case(match: re.Match[str]) -> str:
    word = match.group()
    if len(word) < SHORTEST_TITLE_CASED:
        return word
    return "-".join(part[:1].upper() + part[1:].lower() for part in word.split("-"))

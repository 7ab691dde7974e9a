"""Which of two forms a caller wants (RFC 9110, section 12.5.1)."""

import re
from collections.abc import Mapping
from typing import Final

_QUALITY: Final = re.compile(r"q=([01](?:\.[0-9]{0,3})?)\Z")


def prefers_text(accept: str) -> bool:
    """Whether an ``Accept`` header names ``text/plain`` and wants nothing else more.

    Of two that are wanted alike the one that is named first is taken: a browser's script asks for
    ``application/json, text/plain, */*`` and means JSON. What names neither gets JSON.
    """
    wanted: dict[str, float] = {}
    for range_ in accept.lower().split(","):
        name, *parameters = (part.strip() for part in range_.split(";"))
        qualities = [float(match[1]) for part in parameters if (match := _QUALITY.match(part))]
        wanted.setdefault(name, qualities[0] if qualities else 1.0)
    text, text_place = _wanted(wanted, "text/plain", "text/*")
    json, json_place = _wanted(wanted, "application/json", "application/*")
    if text is None or text == 0:
        return False
    if json is None:
        return text >= wanted.get("*/*", 0)
    return (text, -text_place) > (json, -json_place)


def _wanted(wanted: Mapping[str, float], *names: str) -> tuple[float | None, int]:
    """Return how much the first of ``names`` that is there is wanted, and its place; None: none is there."""
    for name in names:
        if name in wanted:
            return wanted[name], list(wanted).index(name)
    return None, 0

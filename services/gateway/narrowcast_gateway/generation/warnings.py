"""What a reader of a draft must be told."""

import re
from collections import Counter

from narrowcast_gateway.generation.schemas import DraftWarning

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_REPEATED_SENTENCES = 3
"""A house style may say a thing twice (two levels of the spine); three times is a model in a loop."""


def draft_warnings(description: str, finish_reason: str) -> list[DraftWarning]:
    """Return the warnings for one draft."""
    warnings = []
    if finish_reason == "length":
        warnings.append(DraftWarning(code="truncated", message="the draft was cut at the length limit"))
    counts = Counter(sentence.strip() for sentence in _SENTENCE_END.split(description) if sentence.strip())
    if counts and max(counts.values()) >= _REPEATED_SENTENCES:
        warnings.append(DraftWarning(code="repetition", message="the draft repeats a sentence"))
    return warnings

"""Pages of listings, as OpenAI's ``after`` and ``limit`` have them."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from narrowcast.errors import NotFound


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Identified)


def page_of(listing: Sequence[T], after: str | None, limit: int, *, kind: str) -> tuple[list[T], bool]:
    """Return up to ``limit`` entries that follow entry ``after``, and whether more follow.

    Args:
        listing: all there is, in its order.
        after: an entry's id; None: from the first on.
        limit: how many, at most.
        kind: what an entry is, for the error.

    Raises:
        NotFound: no entry ``after``.
    """
    start = 0
    if after is not None:
        place = next((place for place, entry in enumerate(listing) if entry.id == after), None)
        if place is None:
            raise NotFound(f"no such {kind}", param="after")
        start = place + 1
    return list(listing[start : start + limit]), len(listing) > start + limit

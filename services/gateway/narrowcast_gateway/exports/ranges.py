"""One byte range of a file (RFC 9110, section 14): for downloads that are continued."""

import re
from dataclasses import dataclass

_ONE_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})\Z")
"""More digits than any file's size has are nonsense, and from 4300 on Python refuses to read them."""


class RangeNotSatisfiable(Exception):
    """The range begins after the file's end."""


@dataclass(frozen=True)
class ByteRange:
    """A part of a file, or all of it."""

    start: int
    length: int
    size: int
    """Of the whole file."""

    @property
    def partial(self) -> bool:
        """Whether it is less than the file."""
        return self.length < self.size

    def headers(self) -> dict[str, str]:
        """Return what the answer says of it."""
        headers = {"Content-Length": str(self.length), "Accept-Ranges": "bytes"}
        if self.partial:
            headers["Content-Range"] = f"bytes {self.start}-{self.start + self.length - 1}/{self.size}"
        return headers


def requested_range(header: str | None, size: int) -> ByteRange:
    """Return the part that a ``Range`` header asks for.

    Several ranges, other units and nonsense give the whole file, as the RFC allows.

    Raises:
        RangeNotSatisfiable: it begins after the end, or is empty.
    """
    match = _ONE_RANGE.match(header) if header else None
    first, last = match.groups() if match else ("", "")
    if not first and not last:
        return ByteRange(0, size, size)
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return ByteRange(0, size, size)  # not a range: ignored
    if start >= end:
        raise RangeNotSatisfiable
    return ByteRange(start, end - start, size)

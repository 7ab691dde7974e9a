"""Errors a user can act on, free of HTTP and of any service.

A service raises one of these; the edge that speaks to the user (HTTP, job record,
command line) turns ``code``, ``message`` and ``param`` into its own form. To add an
error, subclass the kind that fits and give it a ``code``.

Messages are shown, stored and logged: they name the offending *thing* (a field, a
position, an id), never a piece of a document or a prompt.
"""

import errno
from typing import Any, Final

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""``errno`` of an :class:`OSError` that says that a disk, or one's share of it, is full."""


class NarrowcastError(Exception):
    """Base of every error that carries a reason for the user.

    Attributes:
        code: stable machine-readable name, ``snake_case``.
        message: one sentence for a person; no patient text.
        param: the field, file or row the error is about, if there is one.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with ``args`` alone and lose code and param
        # on the way through a process pool.
        return _rebuild, (type(self), self.message, self.code, self.param)


def _rebuild(cls: type[NarrowcastError], message: str, code: str, param: str | None) -> NarrowcastError:
    return cls(message, code=code, param=param)


class InvalidInput(NarrowcastError):
    """What the user sent cannot be used as it is."""

    code = "invalid_input"


class NotFound(NarrowcastError):
    """No such object, or it belongs to another tenant: the two look the same."""

    code = "not_found"


class Conflict(NarrowcastError):
    """The object exists but its state forbids the request."""

    code = "conflict"


class TooLarge(NarrowcastError):
    """What the user sent is over a limit."""

    code = "too_large"


class Unauthenticated(NarrowcastError):
    """No API key, or one that is not valid."""

    code = "invalid_api_key"


class Unavailable(NarrowcastError):
    """A part of the system that the request needs does not answer; trying again may help."""

    code = "unavailable"


class Outage(Unavailable):
    """What is needed does not answer, or says nothing of the request: time alone helps."""


class DocumentRejected(InvalidInput):
    """One document of a corpus gives no dataset row; ``code`` says why."""

    code = "document_rejected"


class JobFailed(NarrowcastError):
    """A job cannot be completed and trying again would not help."""

    code = "job_failed"

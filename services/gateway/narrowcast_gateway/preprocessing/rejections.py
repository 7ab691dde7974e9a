"""Why a document of a corpus gives no dataset row: the codes and their sentences.

One table, so that the upload check, the worker and the documentation say the same. The
sentences name no file and quote no text: file names hold patients' names as often as
documents do.
"""

from enum import StrEnum

from narrowcast.errors import DocumentRejected


class Rejection(StrEnum):
    """Codes of :class:`narrowcast.errors.DocumentRejected` raised by preprocessing."""

    NOT_A_WORD_DOCUMENT = "not_a_word_document"
    PASSWORD_PROTECTED = "password_protected"  # noqa: S105 - a reason, not a password
    CORRUPT_DOCUMENT = "corrupt_document"
    DOCUMENT_TOO_LARGE = "document_too_large"
    CONVERSION_TIMEOUT = "conversion_timeout"
    EMPTY_DOCUMENT = "empty_document"
    NO_DESCRIPTION = "no_description"
    NO_CONCLUSION = "no_conclusion"


_SENTENCES = {
    Rejection.NOT_A_WORD_DOCUMENT: "The file is not a Word document, whatever its name says.",
    Rejection.PASSWORD_PROTECTED: "The document is protected by a password.",
    Rejection.CORRUPT_DOCUMENT: "The document is damaged and no reader could open it.",
    Rejection.DOCUMENT_TOO_LARGE: "The document is larger than the limit, packed or unpacked.",
    Rejection.CONVERSION_TIMEOUT: "Reading the document took longer than the limit.",
    Rejection.EMPTY_DOCUMENT: "The document holds no text.",
    Rejection.NO_DESCRIPTION: "The document holds no descriptive part.",
    Rejection.NO_CONCLUSION: "The document holds no conclusion.",
}


def rejected(reason: Rejection) -> DocumentRejected:
    """Build the error for ``reason``; the caller raises it."""
    return DocumentRejected(_SENTENCES[reason], code=reason.value)

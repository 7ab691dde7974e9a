"""The documents inside an upload: the uploaded file itself, or the members of a zip.

Documents are numbered in upload order. The numbers are their only names from here on: a
file's own name may be a patient's.
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from narrowcast.errors import DocumentRejected, InvalidInput, TooLarge
from narrowcast_gateway.preprocessing.archive import ArchiveLimits, DocumentArchive, open_archive
from narrowcast_gateway.preprocessing.reading.limits import MAX_DOCUMENT_BYTES
from narrowcast_gateway.preprocessing.zip_reading import ZIP_ERRORS

_OOXML_CONTENTS = "[Content_Types].xml"


@dataclass(frozen=True)
class Document:
    """One document, not yet read."""

    id: str
    """``doc-000001``: its place in the corpus."""
    filename: str
    """As uploaded. Only ever told back to the uploader, never stored or logged."""
    read: Callable[[], bytes]
    """Returns its bytes; raises InvalidInput if it is too large or its zip entry is broken."""


@contextmanager
def open_documents(uploads: list[tuple[str, BinaryIO]], limits: ArchiveLimits) -> Iterator[list[Document]]:
    """Give the documents of ``(file name, open file)`` pairs.

    Raises:
        InvalidInput: a zip that is damaged, empty, encrypted, a bomb, or has a path that leaves it; of
            many uploads the message names the one by its place.
        TooLarge: more documents than allowed.
    """
    found: list[tuple[str, Callable[[], bytes]]] = []
    with ExitStack() as stack:
        for number, (filename, source) in enumerate(uploads, start=1):
            if _is_archive(filename, source):
                place = f"file {number}: " if len(uploads) > 1 else ""
                archive = _opened(source, limits, stack, place)
                found += [(member.name, partial(archive.read, member)) for member in archive.members]
            else:
                found.append((filename, partial(_read_whole, source)))
        if len(found) > limits.max_files:
            message = f"the upload holds more than {limits.max_files} documents"
            raise TooLarge(message, code="too_many_files", param="files")
        yield [
            Document(f"doc-{number:06d}", filename, read)
            for number, (filename, read) in enumerate(found, start=1)
        ]


def _opened(source: BinaryIO, limits: ArchiveLimits, stack: ExitStack, place: str) -> DocumentArchive:
    try:
        return stack.enter_context(open_archive(source, limits))
    except InvalidInput as error:
        raise InvalidInput(f"{place}{error.message}", code=error.code, param="files") from error


def _is_archive(filename: str, source: BinaryIO) -> bool:
    """Whether this is a zip of documents: a .docx is a zip as well, with a list of its parts."""
    source.seek(0)
    if source.read(2) != b"PK":
        return False
    try:
        with zipfile.ZipFile(source) as archive:
            return _OOXML_CONTENTS not in archive.NameToInfo
    except ZIP_ERRORS:
        # Only the name is left to tell a damaged archive, which is refused with all that may be in
        # it, from a damaged .docx, which is one rejected document. The job has no names: to it all
        # of these are documents, as the archives among them never get so far.
        return filename.lower().endswith(".zip")


def _read_whole(source: BinaryIO) -> bytes:
    source.seek(0)
    data = source.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise DocumentRejected("the document is too large", code="document_too_large")
    return data

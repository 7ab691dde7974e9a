"""Uploaded zip archives: what documents they hold, read without trusting them.

Errors name a member by its position, never by its name: hospitals name files after patients.
"""

import re
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from narrowcast.errors import InvalidInput
from narrowcast_gateway.preprocessing.zip_reading import (
    BOUNDED_METHODS,
    ENCRYPTED_FLAG,
    ZIP_ERRORS,
    MemberTooLargeError,
    is_suspiciously_dense,
    read_limited,
)

_MEBIBYTE = 1024 * 1024

# Litter that file managers leave in archives.
_IGNORED_FOLDERS = frozenset({"__MACOSX", ".git", ".svn"})
_IGNORED_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})
# Word's lock files carry the user's name; macOS puts resource forks beside files.
_IGNORED_PREFIXES = ("~$", "._")

# General purpose bit 11: the name is UTF-8 (APPNOTE.TXT 4.4.4).
_UTF8_NAME_FLAG = 0x800
_CYRILLIC = re.compile(r"[А-Яа-яЁё]")


@dataclass(frozen=True)
class ArchiveLimits:
    """Limits on one archive.

    Attributes:
        max_files: documents in it.
        max_file_bytes: size of one document, unpacked.
        max_total_bytes: size of all, unpacked.
        max_ratio: unpacked to packed size of all; text packs about 10 to 1, Word files 1 to 1.
        ratio_floor_bytes: unpacked size below which the ratio is not looked at.
    """

    max_files: int = 100_000
    max_file_bytes: int = 32 * _MEBIBYTE
    max_total_bytes: int = 8 * 1024 * _MEBIBYTE
    max_ratio: float = 100.0
    ratio_floor_bytes: int = 32 * _MEBIBYTE


@dataclass(frozen=True)
class ArchiveMember:
    """A document in an archive.

    Attributes:
        index: position in the archive's directory; how errors and records refer to it.
        name: path in the archive, for the uploader's eyes only: it may hold a patient's name.
        size: unpacked size in bytes, as the archive claims.
    """

    index: int
    name: str
    size: int


class DocumentArchive:
    """An open, checked archive; get one from :func:`open_archive`."""

    def __init__(self, archive: zipfile.ZipFile, limits: ArchiveLimits) -> None:
        self._archive = archive
        self._entries = archive.infolist()
        self._limits = limits
        self.members = tuple(_members(self._entries))
        self._check()

    def read(self, member: ArchiveMember) -> bytes:
        """Decompress ``member``.

        Raises:
            InvalidInput: ``zip_bomb`` past the size limit, ``corrupt_archive``.
        """
        if not 0 <= member.index < len(self._entries):
            raise _refused("corrupt_archive", f"The archive has no entry {member.index}.")
        try:
            return read_limited(self._archive, self._entries[member.index], self._limits.max_file_bytes)
        except MemberTooLargeError as error:
            raise _refused(
                "zip_bomb", f"Entry {member.index} of the archive unpacks to more than is allowed."
            ) from error
        except ZIP_ERRORS as error:
            raise _refused("corrupt_archive", f"Entry {member.index} of the archive is damaged.") from error

    def _check(self) -> None:
        for index, entry in enumerate(self._entries):
            _check_path(index, entry)
        chosen = [self._entries[member.index] for member in self.members]
        if not chosen:
            raise _refused("empty_archive", "The archive holds no files.")
        if len(chosen) > self._limits.max_files:
            raise _refused("too_many_files", f"The archive holds more than {self._limits.max_files} files.")
        if any(entry.flag_bits & ENCRYPTED_FLAG for entry in chosen):
            raise _refused("encrypted_archive", "The archive is protected by a password.")
        if (
            any(entry.file_size > self._limits.max_file_bytes for entry in chosen)
            or sum(entry.file_size for entry in chosen) > self._limits.max_total_bytes
            or is_suspiciously_dense(chosen, self._limits.max_ratio, self._limits.ratio_floor_bytes)
        ):
            raise _refused("zip_bomb", "The archive unpacks to more than is allowed.")
        if any(entry.compress_type not in BOUNDED_METHODS for entry in chosen):
            raise _refused("corrupt_archive", "The archive uses a compression method other than deflate.")


@contextmanager
def open_archive(zip_file: BinaryIO, limits: ArchiveLimits) -> Iterator[DocumentArchive]:
    """Open and check an archive; reading many members this way parses its directory once.

    Raises:
        InvalidInput: ``empty_archive``, ``zip_bomb``, ``unsafe_path``, ``encrypted_archive``,
            ``corrupt_archive``, ``too_many_files``.
    """
    try:
        archive = zipfile.ZipFile(zip_file)
    except ZIP_ERRORS as error:
        raise _refused("corrupt_archive", "The file is not a zip archive, or it is damaged.") from error
    with archive:
        yield DocumentArchive(archive, limits)


def list_documents(zip_file: BinaryIO, limits: ArchiveLimits) -> list[ArchiveMember]:
    """List what an archive holds, folders and file managers' litter left out.

    A zip inside the zip is a member like any other; it is not opened, and turned down later
    as no Word document.

    Raises:
        InvalidInput: as :func:`open_archive`.
    """
    with open_archive(zip_file, limits) as archive:
        return list(archive.members)


def read_member(zip_file: BinaryIO, member: ArchiveMember, limits: ArchiveLimits) -> bytes:
    """Decompress one member, stopping at the limit whatever size the archive claims.

    Raises:
        InvalidInput: as :func:`open_archive`.
    """
    with open_archive(zip_file, limits) as archive:
        return archive.read(member)


def _members(entries: list[zipfile.ZipInfo]) -> Iterator[ArchiveMember]:
    for index, entry in enumerate(entries):
        name = _name_of(entry)
        if not entry.is_dir() and not _is_litter(name):
            yield ArchiveMember(index, name, entry.file_size)


def _is_litter(name: str) -> bool:
    *folders, file = name.split("/")
    return (
        not _IGNORED_FOLDERS.isdisjoint(folders)
        or file.lower() in _IGNORED_FILES
        or file.startswith(_IGNORED_PREFIXES)
    )


def _name_of(entry: zipfile.ZipInfo) -> str:
    """The entry's path; Windows writes Cyrillic names in cp866 and zipfile reads cp437."""
    name = entry.filename.replace("\\", "/")
    if entry.flag_bits & _UTF8_NAME_FLAG or name.isascii():
        return name
    raw = name.encode("cp437", "replace")
    for encoding in ("utf-8", "cp866"):
        try:
            decoded = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        if _CYRILLIC.search(decoded):
            return decoded
    return name


def _check_path(index: int, entry: zipfile.ZipInfo) -> None:
    path = entry.filename.replace("\\", "/")
    is_link = stat.S_ISLNK(entry.external_attr >> 16)
    if path.startswith("/") or re.match(r"[A-Za-z]:", path) or ".." in path.split("/") or is_link:
        raise _refused("unsafe_path", f"Entry {index} of the archive points outside the archive.")


def _refused(code: str, message: str) -> InvalidInput:
    return InvalidInput(message, code=code)

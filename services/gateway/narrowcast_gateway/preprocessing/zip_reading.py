"""Reading zip members without trusting what the zip says about itself.

Both the uploaded corpus archive and every .docx are zips. A member is decompressed in
chunks against a limit, so that neither a false size field nor a bomb fills the memory.
"""

import zipfile
import zlib

CHUNK_BYTES = 256 * 1024

# zipfile bounds the output of one deflate call, but not that of one bzip2 or LZMA call,
# where four kilobytes may become tens of megabytes. Word and every archiver's default
# setting use these two.
BOUNDED_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})

ENCRYPTED_FLAG = 0x1

# What zipfile raises on broken input, besides its own error.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    UnicodeError,
)


class MemberTooLargeError(Exception):
    """A member decompresses to more than the limit."""


def read_limited(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit_bytes: int) -> bytes:
    """Decompress ``member``.

    Raises:
        MemberTooLargeError: it holds more than ``limit_bytes``.
        zipfile.BadZipFile and the others in ``ZIP_ERRORS``: it cannot be read.
    """
    if member.compress_type not in BOUNDED_METHODS:
        raise NotImplementedError("compression method")
    if member.file_size > limit_bytes:
        raise MemberTooLargeError
    parts: list[bytes] = []
    size = 0
    with archive.open(member) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            size += len(chunk)
            if size > limit_bytes:
                raise MemberTooLargeError
            parts.append(chunk)
    return b"".join(parts)


def is_suspiciously_dense(members: list[zipfile.ZipInfo], max_ratio: float, floor_bytes: int) -> bool:
    """Whether the members together unpack by more than ``max_ratio``.

    Below ``floor_bytes`` unpacked nothing is suspicious: a page of equal table rows packs
    two hundred to one and harms nobody.
    """
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    return unpacked > floor_bytes and unpacked > max_ratio * max(packed, 1)

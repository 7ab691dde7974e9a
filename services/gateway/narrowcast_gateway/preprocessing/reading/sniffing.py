"""What a file really is, judged by its first bytes and its structure, never by its name."""

import io
import re
import struct
import warnings
import zipfile
from enum import StrEnum

import olefile

from narrowcast.errors import DocumentRejected
from narrowcast_gateway.preprocessing.reading import limits
from narrowcast_gateway.preprocessing.rejections import Rejection, rejected
from narrowcast_gateway.preprocessing.zip_reading import ZIP_ERRORS, is_suspiciously_dense

OLE_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ZIP_MAGIC = b"PK\x03\x04"

# [MS-DOC] 2.5.2 FibBase: magic, version, flags at 0x0A.
FIB_FLAGS_OFFSET = 0x0A
FIB_ENCRYPTED = 0x0100

# Word writes RTF, HTML and XML under the name .doc, and so do many hospital systems.
_PROBE_BYTES = 4096
_HTML_START = re.compile(
    rb"^\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html)\b", re.I | re.S
)
_WORD_XML = re.compile(
    rb"schemas\.microsoft\.com/office/word/2003/wordml|schemas\.microsoft\.com/office/2006/xmlPackage"
)


class Format(StrEnum):
    """Kinds of file that :func:`read_document` opens."""

    DOCX = "docx"
    DOC = "doc"
    RTF = "rtf"
    HTML = "html"
    XML = "xml"


def sniff(data: bytes) -> Format:
    """Tell the format of ``data``; costs milliseconds, so an upload can wait for it.

    Raises:
        DocumentRejected: ``not_a_word_document``, ``password_protected``,
            ``document_too_large``, or ``corrupt_document`` where the file begins like an
            OLE or zip container and its directory cannot be read.
    """
    if len(data) > limits.MAX_DOCUMENT_BYTES:
        raise rejected(Rejection.DOCUMENT_TOO_LARGE)
    if data.startswith(OLE_MAGIC):
        return _sniff_ole(data)
    if data.startswith(ZIP_MAGIC):
        return _sniff_zip(data)
    return _sniff_text(data)


def _sniff_ole(data: bytes) -> Format:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with olefile.OleFileIO(io.BytesIO(data)) as container:
                return _judge_ole(container)
    except DocumentRejected:
        raise
    except Exception as error:
        raise rejected(Rejection.CORRUPT_DOCUMENT) from error


def _judge_ole(container: olefile.OleFileIO) -> Format:
    # An encrypted .docx is an OLE file around the cipher text ([MS-OFFCRYPTO] 2.3.2).
    if container.exists("EncryptedPackage"):
        raise rejected(Rejection.PASSWORD_PROTECTED)
    if not container.exists("WordDocument"):
        raise rejected(Rejection.NOT_A_WORD_DOCUMENT)
    with container.openstream("WordDocument") as stream:
        fib = stream.read(FIB_FLAGS_OFFSET + 2)
    if len(fib) < FIB_FLAGS_OFFSET + 2:
        raise rejected(Rejection.CORRUPT_DOCUMENT)
    (flags,) = struct.unpack_from("<H", fib, FIB_FLAGS_OFFSET)
    if flags & FIB_ENCRYPTED:
        raise rejected(Rejection.PASSWORD_PROTECTED)
    return Format.DOC


def _sniff_zip(data: bytes) -> Format:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
    except ZIP_ERRORS as error:
        raise rejected(Rejection.CORRUPT_DOCUMENT) from error
    names = {member.filename for member in members}
    # Excel, PowerPoint, OpenDocument, Java and plain archives are zips too.
    if "[Content_Types].xml" not in names or not any(_is_word_part(name) for name in names):
        raise rejected(Rejection.NOT_A_WORD_DOCUMENT)
    unpacked = sum(member.file_size for member in members)
    if (
        len(members) > limits.MAX_DOCX_MEMBERS
        or unpacked > limits.MAX_DOCX_UNPACKED_BYTES
        or is_suspiciously_dense(members, limits.MAX_DOCX_RATIO, limits.DOCX_RATIO_FLOOR_BYTES)
    ):
        raise rejected(Rejection.DOCUMENT_TOO_LARGE)
    return Format.DOCX


def _is_word_part(name: str) -> bool:
    # The main part's name is free; Word 365 writes document2.xml now and then.
    return re.fullmatch(r"/?word/document\d*\.xml", name, re.IGNORECASE) is not None


def _sniff_text(data: bytes) -> Format:
    start = data[:_PROBE_BYTES].removeprefix(b"\xef\xbb\xbf")
    if start.startswith(b"{\\rtf"):
        return Format.RTF
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        start = start.replace(b"\x00", b"")[2:]
    if start.lstrip().startswith(b"<?xml") and _WORD_XML.search(start):
        return Format.XML
    if _HTML_START.match(start):
        return Format.HTML
    raise rejected(Rejection.NOT_A_WORD_DOCUMENT)

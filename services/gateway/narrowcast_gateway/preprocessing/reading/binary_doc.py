"""Reader of binary .doc files (Word 6 to 2007) by their piece table.

The file information block counts the characters of the main text, the page headers, the
notes and the text boxes one after another ([MS-DOC] 2.4.1, 2.5.4). The reader keeps these
parts apart, because page headers carry patients' names; the library readers run them
together with the body. Its work is linear in the size of the file.
"""

import io
import re
import struct
import warnings

import olefile

from narrowcast_gateway.preprocessing.reading import limits
from narrowcast_gateway.preprocessing.reading.text import DocumentText, clean_lines, repair_mojibake

# [MS-DOC] 2.5.1-2.5.5, byte offsets in the WordDocument stream.
_MAGIC_WORD_6 = 0xA5DC
_FIRST_WORD_97_VERSION = 0x00C0
_FLAGS, _TABLE_1_FLAG, _COMPLEX_FLAG = 0x0A, 0x0200, 0x0004
_TEXT_START, _TEXT_END = 0x18, 0x1C
_WORD_97_COUNTS, _WORD_97_CLX = 0x4C, 0x01A2
_WORD_6_COUNTS, _WORD_6_CLX = 0x34, 0x0160
# Main text, footnotes, page headers, macros, comments, endnotes, text boxes, header text boxes.
_PART_COUNT = 8
_BODY_PARTS = (0, 6)

_COMPRESSED_PIECE = 0x40000000
_PIECE_PROPERTIES, _PIECE_TABLE = 1, 2

# Between 0x13 and 0x14 stands a field's code, between 0x14 and 0x15 what it shows.
_FIELD_SIGNS = re.compile("[\x13\x14\x15]")


class UnreadableDocError(Exception):
    """This reader cannot follow the file; another one may."""


def read_binary_doc(data: bytes) -> DocumentText:
    """Read a .doc.

    Raises:
        UnreadableDocError: the structure is damaged or unknown.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with olefile.OleFileIO(io.BytesIO(data)) as container:
                stream = container.openstream("WordDocument").read()
                text, counts = _extract(container, stream)
    except UnreadableDocError:
        raise
    except Exception as error:
        raise UnreadableDocError from error
    parts = _split_parts(text, counts)
    body = clean_lines(_to_lines(repair_mojibake("".join(parts[index] for index in _BODY_PARTS))))
    margins = [part for index, part in enumerate(parts) if index not in _BODY_PARTS]
    header_footer = clean_lines(_to_lines(repair_mojibake("\r".join(margins))))
    return DocumentText(body, header_footer, "doc-pieces")


def _extract(container: olefile.OleFileIO, stream: bytes) -> tuple[str, tuple[int, ...]]:
    magic, version = struct.unpack_from("<HH", stream, 0)
    (flags,) = struct.unpack_from("<H", stream, _FLAGS)
    if magic == _MAGIC_WORD_6 or version < _FIRST_WORD_97_VERSION:
        counts = struct.unpack_from(f"<{_PART_COUNT}I", stream, _WORD_6_COUNTS)
        if not flags & _COMPLEX_FLAG:
            start, end = struct.unpack_from("<II", stream, _TEXT_START)
            return _decode_8_bit(stream[start : max(start, end)]), counts
        start, length = struct.unpack_from("<II", stream, _WORD_6_CLX)
        return _read_pieces(stream, stream[start : start + length], word_97=False), counts
    counts = struct.unpack_from(f"<{_PART_COUNT}I", stream, _WORD_97_COUNTS)
    table = container.openstream("1Table" if flags & _TABLE_1_FLAG else "0Table").read()
    start, length = struct.unpack_from("<II", stream, _WORD_97_CLX)
    return _read_pieces(stream, table[start : start + length], word_97=True), counts


def _read_pieces(stream: bytes, clx: bytes, *, word_97: bool) -> str:
    """Text of the pieces in document order ([MS-DOC] 2.4.1, 2.9.38)."""
    table = _piece_table(clx)
    count = (len(table) - 4) // 12
    bounds = struct.unpack_from(f"<{count + 1}I", table, 0)
    texts: list[str] = []
    budget = limits.MAX_TEXT_CHARACTERS
    for index in range(count):
        length = bounds[index + 1] - bounds[index]
        (position,) = struct.unpack_from("<I", table, 4 * (count + 1) + 8 * index + 2)
        if length <= 0:
            continue
        budget -= length
        if budget < 0:
            raise UnreadableDocError
        texts.append(_read_piece(stream, position, length, word_97=word_97))
    return "".join(texts)


def _read_piece(stream: bytes, position: int, length: int, *, word_97: bool) -> str:
    if not word_97:
        return _decode_8_bit(stream[position : position + length])
    if position & _COMPRESSED_PIECE:
        start = (position & ~_COMPRESSED_PIECE) // 2
        return stream[start : start + length].decode("cp1252", "replace")
    return stream[position : position + 2 * length].decode("utf-16-le", "replace")


def _piece_table(clx: bytes) -> bytes:
    position = 0
    while position < len(clx):
        kind = clx[position]
        if kind == _PIECE_PROPERTIES:
            (length,) = struct.unpack_from("<H", clx, position + 1)
            position += 3 + length
        elif kind == _PIECE_TABLE:
            (length,) = struct.unpack_from("<I", clx, position + 1)
            table = clx[position + 5 : position + 5 + length]
            if len(table) >= 4 + 12:
                return table
            break
        else:
            break
    raise UnreadableDocError


def _decode_8_bit(raw: bytes) -> str:
    # Word 6 and 95 keep the code page in the font table only; repair_mojibake tells cp1251.
    return raw.decode("cp1252", "replace")


def _split_parts(text: str, counts: tuple[int, ...]) -> list[str]:
    parts = []
    position = 0
    for count in counts:
        parts.append(text[position : position + count])
        position += count
    return parts


def _to_lines(text: str) -> list[str]:
    text = _drop_field_codes(text)
    # A cell ends with one 0x07, a row with one more; see [MS-DOC] 2.4.3.
    text = text.replace("\x07\x07", "\n").replace("\x07", "\t")
    return text.replace("\x1e", "-").replace("\x1f", "").split("\r")


def _drop_field_codes(text: str) -> str:
    kept: list[str] = []
    in_code: list[bool] = []
    position = 0
    for sign in _FIELD_SIGNS.finditer(text):
        if not any(in_code):
            kept.append(text[position : sign.start()])
        position = sign.end()
        if sign.group() == "\x13":
            in_code.append(True)
        elif in_code and sign.group() == "\x14":
            in_code[-1] = False
        elif in_code:
            in_code.pop()
    if not any(in_code):
        kept.append(text[position:])
    return "".join(kept)

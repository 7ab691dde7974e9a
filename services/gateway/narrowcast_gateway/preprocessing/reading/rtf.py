"""Reader of RTF, which many hospital systems write under the name .doc.

Follows the Rich Text Format specification 1.9.1 as far as text goes: groups, destinations
to skip, code pages, Unicode escapes, cells. One pass, linear in the size of the file.
"""

import re
from dataclasses import dataclass, field, replace

from narrowcast_gateway.preprocessing.reading.text import DocumentText, clean_lines, repair_mojibake
from narrowcast_gateway.preprocessing.rejections import Rejection, rejected

_TOKEN = re.compile(
    rb"\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\'([0-9a-fA-F]{2})|\\([^a-zA-Z])|([{}])|[\r\n]+|([^\\{}\r\n]+)",
    re.S,
)
_SKIPPED = frozenset(
    b"fonttbl colortbl stylesheet info pict object themedata datastore fldinst listtable listoverridetable "
    b"rsidtbl generator xmlnstbl latentstyles mmathPr bkmkstart bkmkend pgptbl shpinst nonshppict".split()
) - {b"shpinst"}
_MARGINS = frozenset(
    b"header headerl headerr headerf footer footerl footerr footerf footnote annotation".split()
)
_SIGNS = {
    b"par": "\n", b"line": "\n", b"sect": "\n", b"page": "\n", b"row": "\n", b"cell": "\t", b"tab": "\t",
    b"emdash": "—", b"endash": "–", b"bullet": "•", b"lquote": "‘",
    b"rquote": "’", b"ldblquote": "“", b"rdblquote": "”",
}  # fmt: skip
# \fcharsetN of the font table to code pages, specification page 19; what is not here follows \ansicpg.
_CHARSETS = {
    0: "cp1252",
    161: "cp1253",
    162: "cp1254",
    177: "cp1255",
    178: "cp1256",
    186: "cp1257",
    204: "cp1251",
    238: "cp1250",
}
_MAX_GROUP_DEPTH = 500


@dataclass(frozen=True)
class _Group:
    skipped: bool = False
    margin: bool = False
    hidden: bool = False
    unicode_fallback: int = 1
    encoding: str | None = None


@dataclass
class _Reader:
    encoding: str = "cp1252"
    fonts: dict[int, str] = field(default_factory=dict)
    font: int = 0
    group: _Group = field(default_factory=_Group)
    stack: list[_Group] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    margins: list[str] = field(default_factory=list)
    to_skip: int = 0
    surrogate: int = 0

    def text(self, value: str) -> None:
        if not self.group.skipped and not self.group.hidden:
            (self.margins if self.group.margin else self.body).append(value)

    def raw(self, value: bytes) -> None:
        if self.to_skip:
            dropped = min(self.to_skip, len(value))
            self.to_skip -= dropped
            value = value[dropped:]
        if value:
            try:
                self.text(value.decode(self.group.encoding or self.encoding, "replace"))
            except LookupError:
                self.text(value.decode("cp1251", "replace"))


def read_rtf(data: bytes) -> DocumentText:
    """Read an RTF file.

    Raises:
        DocumentRejected: ``corrupt_document``.
    """
    reader = _Reader()
    for token in _TOKEN.finditer(data):
        word, number, code, sign, brace, text = token.groups()
        if brace:
            _brace(reader, brace)
        elif word:
            _control_word(reader, word, int(number) if number else None)
        elif code:
            reader.raw(bytes([int(code, 16)]))
        elif sign:
            _control_sign(reader, sign)
        elif text:
            reader.raw(text)
    return DocumentText(
        clean_lines([repair_mojibake("".join(reader.body))]),
        clean_lines([repair_mojibake("".join(reader.margins))]),
        "rtf",
    )


def _brace(reader: _Reader, brace: bytes) -> None:
    reader.to_skip = 0
    if brace == b"{":
        if len(reader.stack) >= _MAX_GROUP_DEPTH:
            raise rejected(Rejection.CORRUPT_DOCUMENT)
        reader.stack.append(reader.group)
    elif reader.stack:
        was_margin = reader.group.margin
        reader.group = reader.stack.pop()
        if was_margin and not reader.group.margin:
            reader.margins.append("\n")


def _control_sign(reader: _Reader, sign: bytes) -> None:
    if sign == b"*":
        # An optional destination: what we do not know we skip; text boxes are marked so too.
        reader.group = replace(reader.group, skipped=True)
    elif sign in b"\\{}":
        reader.raw(sign)
    elif sign in (b"~", b"_"):
        reader.text(" " if sign == b"~" else "-")
    elif sign in (b"\r", b"\n"):
        reader.text("\n")


def _control_word(reader: _Reader, word: bytes, number: int | None) -> None:
    if word in _SIGNS:
        reader.text(_SIGNS[word])
    elif word == b"u" and number is not None:
        _unicode(reader, number)
    elif word == b"uc":
        reader.group = replace(reader.group, unicode_fallback=max(0, min(number or 0, 8)))
    elif word == b"bin" or word in _SKIPPED:
        reader.group = replace(reader.group, skipped=True)
    elif word in (b"shpinst", b"shptxt"):
        reader.group = replace(reader.group, skipped=False)
    elif word == b"sp":
        reader.group = replace(reader.group, skipped=True)
    elif word in _MARGINS:
        reader.group = replace(reader.group, margin=True)
    elif word in (b"v", b"deleted"):
        reader.group = replace(reader.group, hidden=number != 0)
    else:
        _encoding_word(reader, word, number)


def _encoding_word(reader: _Reader, word: bytes, number: int | None) -> None:
    if word == b"ansicpg" and number:
        reader.encoding = f"cp{number}"
    elif word == b"f" and number is not None:
        reader.font = number
        reader.group = replace(reader.group, encoding=reader.fonts.get(number))
    elif word == b"fcharset" and number in _CHARSETS:
        reader.fonts[reader.font] = _CHARSETS[number]
    elif word == b"plain":
        reader.group = replace(reader.group, encoding=None, hidden=False)


def _unicode(reader: _Reader, number: int) -> None:
    code = number & 0xFFFF
    reader.to_skip = reader.group.unicode_fallback
    if 0xD800 <= code < 0xDC00:
        reader.surrogate = code
    elif 0xDC00 <= code < 0xE000:
        if reader.surrogate:
            reader.text(chr(0x10000 + ((reader.surrogate - 0xD800) << 10) + (code - 0xDC00)))
        reader.surrogate = 0
    else:
        reader.text(chr(code))

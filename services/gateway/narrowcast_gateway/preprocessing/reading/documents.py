"""One reader for each format, chosen by what the file is."""

from collections.abc import Sequence

from narrowcast_gateway.preprocessing.reading import limits
from narrowcast_gateway.preprocessing.reading.binary_doc import UnreadableDocError, read_binary_doc
from narrowcast_gateway.preprocessing.reading.converters import convert_doc
from narrowcast_gateway.preprocessing.reading.html import read_html
from narrowcast_gateway.preprocessing.reading.rtf import read_rtf
from narrowcast_gateway.preprocessing.reading.sandbox import ConversionTimeoutError
from narrowcast_gateway.preprocessing.reading.sniffing import Format, sniff
from narrowcast_gateway.preprocessing.reading.text import DocumentText, is_mojibake
from narrowcast_gateway.preprocessing.reading.word_xml import read_docx, read_flat_xml
from narrowcast_gateway.preprocessing.rejections import Rejection, rejected


def read_document(data: bytes, *, readers: Sequence[str] | None = None) -> DocumentText:
    """Read a Word document of any supported format.

    Args:
        data: the file.
        readers: names of the converters that may be tried on a .doc that our own reader cannot
            follow, of ``CONVERTERS``; ``None`` allows those that are installed.

    Raises:
        DocumentRejected: what :func:`sniff` raises, and ``corrupt_document``,
            ``conversion_timeout``, ``empty_document``, ``document_too_large``.
    """
    kind = sniff(data)
    text = _read_doc(data, readers) if kind is Format.DOC else _READERS[kind](data)
    if not text.body and not text.header_footer:
        raise rejected(Rejection.EMPTY_DOCUMENT)
    if sum(map(len, text.body)) > limits.MAX_TEXT_CHARACTERS:
        raise rejected(Rejection.DOCUMENT_TOO_LARGE)
    return text


def _read_doc(data: bytes, readers: Sequence[str] | None) -> DocumentText:
    try:
        text = read_binary_doc(data)
    except UnreadableDocError:
        text = None
    if text is not None and text.body and not is_mojibake("\n".join(text.body)):
        return text
    try:
        converted = convert_doc(data, readers)
    except ConversionTimeoutError as error:
        raise rejected(Rejection.CONVERSION_TIMEOUT) from error
    if converted is None:
        # Understood by us and empty to everyone, or understood by nobody.
        raise rejected(Rejection.CORRUPT_DOCUMENT if text is None else Rejection.EMPTY_DOCUMENT)
    return converted


_READERS = {
    Format.DOCX: read_docx,
    Format.RTF: read_rtf,
    Format.HTML: read_html,
    Format.XML: read_flat_xml,
}

"""Reader of HTML that Word or a hospital system saved under the name .doc."""

import re

from lxml import etree
from lxml import html as lxml_html

from narrowcast_gateway.preprocessing.reading import limits
from narrowcast_gateway.preprocessing.reading.text import DocumentText, clean_lines
from narrowcast_gateway.preprocessing.rejections import Rejection, rejected

_LINE_ELEMENTS = frozenset(
    {"p", "div", "tr", "li", "h1", "h2", "h3", "h4", "h5", "h6", "table", "br", "body"}
)
_CELL_ELEMENTS = frozenset({"td", "th"})
# Word writes what is deleted under change tracking as <del>.
_SKIPPED = frozenset({"head", "script", "style", "noscript", "iframe", "object", "title", "del"})
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([\w-]+)", re.I)


def read_html(data: bytes) -> DocumentText:
    """Read an HTML page.

    Raises:
        DocumentRejected: ``corrupt_document``, ``document_too_large``.
    """
    if len(data) > limits.MAX_XML_PART_BYTES:
        raise rejected(Rejection.DOCUMENT_TOO_LARGE)
    try:
        parser = lxml_html.HTMLParser(no_network=True, huge_tree=False, remove_comments=True, remove_pis=True)
        root = lxml_html.document_fromstring(_decode(data), parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError) as error:
        raise rejected(Rejection.CORRUPT_DOCUMENT) from error
    pieces: list[str] = []
    for event, element in etree.iterwalk(root, events=("start", "end")):
        _add(event, element, pieces)
    return DocumentText(clean_lines(["".join(pieces)]), (), "html")


def _add(event: str, element: etree._Element, pieces: list[str]) -> None:
    name = element.tag if isinstance(element.tag, str) else ""
    hidden = name in _SKIPPED or any(
        isinstance(parent.tag, str) and parent.tag in _SKIPPED for parent in element.iterancestors()
    )
    if event == "start":
        if name in _LINE_ELEMENTS:
            pieces.append("\n")
        if not hidden:
            # Line ends inside a paragraph are blanks in HTML.
            pieces.append(re.sub(r"\s+", " ", element.text or ""))
        return
    if name in _CELL_ELEMENTS:
        pieces.append("\t")
    elif name in _LINE_ELEMENTS:
        pieces.append("\n")
    parent = element.getparent()
    if parent is not None and not (hidden and name not in _SKIPPED) and parent.tag not in _SKIPPED:
        pieces.append(re.sub(r"\s+", " ", element.tail or ""))


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    declared = _CHARSET.search(data[:4096])
    for encoding in (
        declared.group(1).decode("ascii", "replace") if declared else "utf-8",
        "utf-8",
        "cp1251",
    ):
        try:
            # lxml refuses a string that carries an encoding declaration.
            return re.sub(r"^\s*<\?xml[^>]*\?>", "", data.decode(encoding).removeprefix("\ufeff"))
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("cp1251", "replace")

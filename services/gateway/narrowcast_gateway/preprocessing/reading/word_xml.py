"""Readers of Word's XML: .docx and .docm packages, flat XML packages, Word 2003 XML.

python-docx's paragraph list leaves out tables, text boxes, content controls and tracked
insertions, refuses .docm and parses every part before one can look at its size. The walk
below reads the main part, headers, footers and notes alone, and takes elements by their
local names, which the three dialects share.
"""

import io
import posixpath
import zipfile
from collections.abc import Iterator

from lxml import etree

from narrowcast_gateway.preprocessing.reading import limits
from narrowcast_gateway.preprocessing.reading.text import DocumentText, clean_lines
from narrowcast_gateway.preprocessing.rejections import Rejection, rejected
from narrowcast_gateway.preprocessing.zip_reading import ZIP_ERRORS, MemberTooLargeError, read_limited

_WORD_NAMESPACES = frozenset(
    {
        "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
        "http://purl.oclc.org/ooxml/wordprocessingml/main",
        "http://schemas.microsoft.com/office/word/2003/wordml",
    }
)
_COMPATIBILITY = "http://schemas.openxmlformats.org/markup-compatibility/2006"

# Deleted and moved-away text, comments' and properties' insides, field codes.
_SKIPPED = frozenset(
    {
        "del",
        "moveFrom",
        "delText",
        "instrText",
        "delInstrText",
        "pPr",
        "tblPr",
        "tcPr",
        "trPr",
        "sectPr",
        "rPr",
        "fldData",
        "binData",
    }
)
_MARGIN_PARTS = ("header", "footer", "footnotes", "endnotes", "comments")


def read_docx(data: bytes) -> DocumentText:
    """Read a .docx, .docm, .dotx or .dotm; macros are never looked at.

    Raises:
        DocumentRejected: ``corrupt_document``, ``document_too_large``.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as package:
            members = {member.filename.lstrip("/"): member for member in package.infolist()}
            main = _main_part(package, members)
            body = _part_lines(package, members[main])
            margins = [
                line
                for name in sorted(members)
                if _is_margin_part(name, main)
                for line in _part_lines(package, members[name])
            ]
    except MemberTooLargeError as error:
        raise rejected(Rejection.DOCUMENT_TOO_LARGE) from error
    except (*ZIP_ERRORS, etree.XMLSyntaxError, RecursionError) as error:
        raise rejected(Rejection.CORRUPT_DOCUMENT) from error
    return DocumentText(clean_lines(body), clean_lines(margins), "docx-xml")


def read_flat_xml(data: bytes) -> DocumentText:
    """Read Word 2003 XML or a flat OPC package.

    Raises:
        DocumentRejected: ``corrupt_document``, ``document_too_large``.
    """
    if len(data) > limits.MAX_XML_PART_BYTES:
        raise rejected(Rejection.DOCUMENT_TOO_LARGE)
    try:
        root = _parse(data)
        body = [line for element in _named(root, "body") for line in _block_lines(element)]
        margins = [
            line
            for name in ("hdr", "ftr", "footnote")
            for element in _named(root, name)
            for line in _block_lines(element)
        ]
    except (etree.XMLSyntaxError, ValueError, RecursionError) as error:
        raise rejected(Rejection.CORRUPT_DOCUMENT) from error
    return DocumentText(clean_lines(body), clean_lines(margins), "word-xml")


def _main_part(package: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> str:
    """Name of the main part, from the package relationships ([ECMA-376] part 2, 9.3)."""
    relationships = members.get("_rels/.rels")
    if relationships is not None:
        root = _parse(read_limited(package, relationships, limits.MAX_XML_PART_BYTES))
        for relationship in root:
            if isinstance(relationship.tag, str) and str(relationship.get("Type")).endswith(
                "/officeDocument"
            ):
                target = posixpath.normpath(str(relationship.get("Target")).lstrip("/"))
                if target in members:
                    return target
    return "word/document.xml"


def _is_margin_part(name: str, main: str) -> bool:
    folder, file = posixpath.split(name)
    return folder == posixpath.dirname(main) and file.endswith(".xml") and file.startswith(_MARGIN_PARTS)


def _part_lines(package: zipfile.ZipFile, member: zipfile.ZipInfo) -> list[str]:
    return list(_block_lines(_parse(read_limited(package, member, limits.MAX_XML_PART_BYTES))))


def _parse(data: bytes) -> etree._Element:
    # No entities, no DTD, no network; without huge_tree libxml2 also bounds the depth.
    parser = etree.XMLParser(
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    root = etree.fromstring(data, parser)
    if root.getroottree().docinfo.internalDTD is not None:
        # Word never writes one; what does is an attempt at entity expansion.
        raise ValueError("document type declaration")
    return root


def _named(root: etree._Element, name: str) -> Iterator[etree._Element]:
    yield from root.iterfind(f".//{{*}}{name}")


def _local_name(element: etree._Element) -> str:
    """Local name of a Word element, ``""`` for an element of another vocabulary."""
    tag = element.tag
    if not isinstance(tag, str):
        return ""
    namespace, _, name = tag[1:].partition("}")
    return name if namespace in _WORD_NAMESPACES else ""


def _block_lines(element: etree._Element) -> Iterator[str]:
    """Lines of everything below ``element`` that holds paragraphs or tables."""
    for child in _children(element):
        name = _local_name(child)
        if name == "p":
            yield from _paragraph_lines(child)
        elif name == "tr":
            yield from _row_lines(child)
        elif name not in _SKIPPED:
            yield from _block_lines(child)


def _children(element: etree._Element) -> Iterator[etree._Element]:
    """Children of ``element``; of alternatives for old and new Word only the first."""
    for child in element:
        if child.tag == f"{{{_COMPATIBILITY}}}AlternateContent":
            chosen = next((branch for branch in child if isinstance(branch.tag, str)), None)
            if chosen is not None:
                yield chosen
        else:
            yield child


def _row_lines(row: etree._Element) -> Iterator[str]:
    """One line for a row of one-line cells; cells of several lines one after another."""
    cells = [list(clean_lines(_block_lines(cell))) for cell in _row_cells(row)]
    if all(len(cell) <= 1 for cell in cells):
        yield "\t".join(cell[0] for cell in cells if cell)
    else:
        for cell in cells:
            yield from cell


def _row_cells(element: etree._Element) -> Iterator[etree._Element]:
    # Cells may sit inside content controls and tracked insertions.
    for child in _children(element):
        name = _local_name(child)
        if name == "tc":
            yield child
        elif name not in _SKIPPED:
            yield from _row_cells(child)


def _paragraph_lines(paragraph: etree._Element) -> Iterator[str]:
    pieces: list[str] = []
    boxes: list[etree._Element] = []
    _collect_runs(paragraph, pieces, boxes)
    yield "".join(pieces)
    # A text box is anchored in a paragraph and stands beside it.
    for box in boxes:
        yield from _block_lines(box)


def _collect_runs(element: etree._Element, pieces: list[str], boxes: list[etree._Element]) -> None:
    for child in _children(element):
        name = _local_name(child)
        if name == "t":
            pieces.append(child.text or "")
        elif name in _BREAKS:
            pieces.append(_BREAKS[name])
        elif name == "txbxContent":
            boxes.append(child)
        elif name == "r" and _is_hidden(child):
            continue
        elif name not in _SKIPPED:
            _collect_runs(child, pieces, boxes)


_BREAKS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def _is_hidden(run: etree._Element) -> bool:
    for properties in run:
        if _local_name(properties) == "rPr":
            for item in properties:
                if _local_name(item) == "vanish":
                    values = [str(value) for key, value in item.items() if str(key).endswith("}val")]
                    return not values or values[0] not in {"0", "false", "off"}
    return False

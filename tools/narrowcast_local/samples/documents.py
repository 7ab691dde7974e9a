"""Reports as Word documents: .docx by python-docx, .doc (Word 97 binary) by LibreOffice."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from docx import Document
from docx.enum.text import WD_ALIGN_PARAGRAPH
from docx.shared import Pt

from narrowcast.errors import NarrowcastError, Unavailable
from narrowcast_local.samples.blocks import Paragraph, Table
from narrowcast_local.samples.report import Report

_BATCH = 40  # files per LibreOffice call: its start costs as much as several documents
_CALL_SECONDS = 300
_STYLES = {"Normal", "Default Paragraph Font", "Normal Table", "Table Grid", "Header", "Header Char"}
_UNUSED_PARTS = ("/thumbnail", "/stylesWithEffects", "/customXml", "/numbering", "/webSettings")
_OLE2 = bytes.fromhex("d0cf11e0a1b11ae1")  # first bytes of every binary .doc


class LibreOfficeMissing(Unavailable):
    """Binary .doc files cannot be made on this machine."""

    code = "libreoffice_missing"


class ConversionFailed(NarrowcastError):
    """LibreOffice ran and did not give the .doc file."""

    code = "conversion_failed"


def write_docx(report: Report, path: Path) -> None:
    """Write the report to ``path``; the document's properties name nobody."""
    document = Document(BytesIO(_template()))
    page_header = document.sections[0].header
    unused = page_header.paragraphs[0]  # python-docx starts a page header with an empty paragraph
    for block in report.blocks or (Paragraph(report.text),):
        if isinstance(block, Table):
            _add_table(document, block)
        else:
            _add_paragraph(page_header if block.page_header else document, block)
    if len(page_header.paragraphs) > 1:
        unused._p.getparent().remove(unused._p)
    else:
        page_header.is_linked_to_previous = True  # no page header part at all
    document.save(str(path))


@cache
def _template() -> bytes:
    """Return python-docx's template without what no report uses: 27 of its 36 kB."""
    document = Document()
    for style in list(document.styles):
        if style.name not in _STYLES:
            style.element.getparent().remove(style.element)
    for owner in (document.part, document.part.package):
        for key, relation in list(owner.rels.items()):
            if relation.reltype.endswith(_UNUSED_PARTS):
                del owner.rels[key]
    document.core_properties.author = ""
    document.core_properties.comments = ""
    document.styles["Normal"].font.name = "Times New Roman"
    document.styles["Normal"].font.size = Pt(12)
    slim = BytesIO()
    document.save(slim)
    return slim.getvalue()


def _add_paragraph(place: Any, block: Paragraph) -> None:
    for line in [block.text] if block.soft_breaks else block.text.split("\n"):
        paragraph = place.add_paragraph()
        paragraph.add_run(line).bold = block.bold or None
        paragraph.paragraph_format.space_after = Pt(3)
        if block.centered:
            paragraph.alignment = WD_ALIGN_PARAGRAPH.CENTER


def _add_table(document: Any, block: Table) -> None:
    table = document.add_table(rows=len(block.rows), cols=2, style="Table Grid")
    for cells, texts in zip(table.rows, block.rows, strict=True):
        left, right = cells.cells
        if len(texts) == 1:
            left = left.merge(right)
        for cell, text in zip((left, right), texts, strict=False):
            first, *others = text.split("\n")
            cell.paragraphs[0].add_run(first)
            for other in others:
                cell.add_paragraph(other)


def require_libreoffice() -> str:
    """Return the path of LibreOffice's program.

    Raises:
        LibreOfficeMissing: it is not on the search path.
    """
    program = shutil.which("soffice") or shutil.which("libreoffice")
    if program is None:
        raise LibreOfficeMissing(
            "Binary .doc files are made with LibreOffice Writer, which is not installed "
            "(Debian: libreoffice-writer-nogui); --format docx works without it.",
            param="format",
        )
    return program


def write_docs(reports: Sequence[Report], folder: Path, done: Callable[[int], object]) -> None:
    """Write each report to ``folder`` as a binary .doc; ``done`` hears how many a call finished.

    Raises:
        LibreOfficeMissing: no LibreOffice here.
        ConversionFailed: a file did not come out, or is not a Word 97 file.
    """
    program = require_libreoffice()
    with tempfile.TemporaryDirectory(prefix="narrowcast-doc-") as scratch:
        for start in range(0, len(reports), _BATCH):
            batch = reports[start : start + _BATCH]
            _convert(program, batch, Path(scratch), folder)
            done(len(batch))


def _convert(program: str, batch: Sequence[Report], scratch: Path, folder: Path) -> None:
    sources = [scratch / f"{report.id}.docx" for report in batch]
    for report, source in zip(batch, sources, strict=True):
        write_docx(report, source)
    command = [
        program,
        "--headless",
        "--norestore",
        f"-env:UserInstallation={(scratch / 'profile').as_uri()}",
        "--convert-to",
        "doc:MS Word 97",
        "--outdir",
        str(folder),
        *map(str, sources),
    ]
    environment = {**os.environ, "HOME": str(scratch)}
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_CALL_SECONDS, env=environment)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise ConversionFailed(f"LibreOffice did not convert {batch[0].id} to {batch[-1].id}.") from error
    for report, source in zip(batch, sources, strict=True):
        source.unlink()
        target = folder / f"{report.id}.doc"
        if not target.is_file() or not target.read_bytes().startswith(_OLE2):
            raise ConversionFailed(f"LibreOffice gave no Word 97 file for {report.id}.", param=target.name)

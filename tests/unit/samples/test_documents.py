"""Word files of the reports, and the forty that ship."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docx import Document
from docx.table import Table

from narrowcast_local.samples import documents, generate, write_docx
from narrowcast_local.samples.__main__ import main
from narrowcast_local.samples.corpus import TRUTH, suffix, truth_row

SHIPPED = Path(__file__).parents[3] / "tools" / "samples"
OLE2 = bytes.fromhex("d0cf11e0a1b11ae1")
needs_libreoffice = pytest.mark.skipif(
    shutil.which("soffice") is None and shutil.which("libreoffice") is None,
    reason="LibreOffice is not installed",
)


def block_lines(place: Any) -> Iterator[str]:
    for item in place.iter_inner_content():
        if isinstance(item, Table):
            for row in item.rows:
                seen: list[Any] = []
                for cell in row.cells:
                    if cell._tc not in seen:  # python-docx repeats a merged cell
                        seen.append(cell._tc)
                        yield from block_lines(cell)
        else:
            yield from item.text.split("\n")


def docx_text(path: Path) -> str:
    document = Document(str(path))
    lines = [*block_lines(document.sections[0].header), *block_lines(document)]
    return "\n".join(line for line in lines if line)


def test_docx_reads_back_as_the_text(tmp_path: Path) -> None:
    for report in generate(56, seed=9):
        path = tmp_path / f"{report.id}.docx"
        write_docx(report, path)
        assert docx_text(path) == report.text
        assert path.stat().st_size < 20_000


def test_docx_properties_name_nobody(tmp_path: Path) -> None:
    report = next(generate(1))
    write_docx(report, tmp_path / "a.docx")
    properties = Document(str(tmp_path / "a.docx")).core_properties
    assert (properties.author, properties.comments, properties.title) == ("", "", "")


def test_a_report_without_blocks_is_written_as_paragraphs(tmp_path: Path) -> None:
    report = replace(next(generate(1)), blocks=())
    write_docx(report, tmp_path / "a.docx")
    assert docx_text(tmp_path / "a.docx") == report.text


@needs_libreoffice
def test_doc_is_word_97_and_holds_the_text(tmp_path: Path) -> None:
    reports = list(generate(7, seed=2))
    finished: list[int] = []
    documents.write_docs(reports, tmp_path, finished.append)
    assert sum(finished) == 7
    for report in reports:
        holds_text((tmp_path / f"{report.id}.doc").read_bytes(), report.text)


def holds_text(content: bytes, text: str) -> None:
    assert content.startswith(OLE2)
    for line in text.split("\n"):
        assert line.encode("utf-16-le") in content or line.encode("cp1252", "replace") in content


def test_without_libreoffice_the_reason_is_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(documents.LibreOfficeMissing) as caught:
        documents.require_libreoffice()
    assert caught.value.code == "libreoffice_missing"
    assert main([str(tmp_path / "out"), "--count", "2", "--format", "mixed"]) == 1
    assert "LibreOffice" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_broken_libreoffice_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "soffice"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(documents.ConversionFailed) as caught:
        documents.write_docs(list(generate(1)), tmp_path, lambda _: None)
    assert caught.value.param == "report-00001.doc"


def test_command_line_writes_documents_truth_and_zip(tmp_path: Path) -> None:
    out, archive = tmp_path / "out", tmp_path / "corpus.zip"
    assert main([str(out), "--count", "9", "--seed", "5", "--zip", str(archive)]) == 0
    rows = [json.loads(line) for line in (out / TRUTH).read_text(encoding="utf-8").splitlines()]
    assert [row["file"] for row in rows] == [f"report-{number:05d}.docx" for number in range(1, 10)]
    for row, report in zip(rows, generate(9, seed=5), strict=True):
        assert row == truth_row(report, row["file"])
        assert docx_text(out / row["file"]) == row["text"]
    with zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == [row["file"] for row in rows]


def test_shipped_files_are_the_first_forty() -> None:
    rows = [json.loads(line) for line in (SHIPPED / TRUTH).read_text(encoding="utf-8").splitlines()]
    expected = [
        truth_row(report, f"{report.id}.{suffix(index, 'mixed')}")
        for index, report in enumerate(generate(40))
    ]
    assert rows == expected
    for row in rows:
        path = SHIPPED / row["file"]
        if path.suffix == ".docx":
            assert docx_text(path) == row["text"]
        else:
            holds_text(path.read_bytes(), row["text"])


def test_shipped_files_are_half_and_half_and_cover_everything() -> None:
    rows = [json.loads(line) for line in (SHIPPED / TRUTH).read_text(encoding="utf-8").splitlines()]
    kinds = {kind: [row for row in rows if row["file"].endswith(kind)] for kind in (".docx", ".doc")}
    for held in kinds.values():
        assert len(held) == 20
        assert len({row["study"] for row in held}) == 4
        assert len({row["layout"] for row in held}) == 7
    files = [path for path in SHIPPED.iterdir() if path.name != TRUTH]
    assert len(files) == 40
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 1_500_000

"""A folder of sample documents with the truth about them."""

import json
import zipfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from narrowcast_local.samples.documents import require_libreoffice, write_docs, write_docx
from narrowcast_local.samples.report import STUDIES, Report, generate

Format = Literal["docx", "doc", "mixed"]
TRUTH = "truth.jsonl"
_GROUP = 200  # reports in memory at once
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same archive whenever it is made


def suffix(index: int, form: Format) -> Literal["docx", "doc"]:
    """Return the kind of file for report ``index``.

    Mixed corpora change it after each round of studies, so that both kinds hold every study.
    """
    if form == "mixed":
        return "docx" if index // len(STUDIES) % 2 == 0 else "doc"
    return form


def truth_row(report: Report, file: str) -> dict[str, Any]:
    """Return the report's line of the truth file."""
    return {
        "file": file,
        "study": report.study,
        "layout": report.layout,
        "description": report.description,
        "conclusion": report.conclusion,
        "personal": [
            {"kind": datum.kind, "text": datum.text, "start": datum.start, "end": datum.end}
            for datum in report.personal
        ],
        "text": report.text,
    }


def write_corpus(
    folder: Path, count: int, seed: int, form: Format, done: Callable[[int], object] = lambda _: None
) -> None:
    """Write ``count`` documents and ``truth.jsonl`` to ``folder``, which is made if absent.

    Raises:
        LibreOfficeMissing: .doc files are asked for and LibreOffice is not here; nothing is written.
        ConversionFailed: LibreOffice did not give a file.
    """
    if form != "docx":
        require_libreoffice()
    folder.mkdir(parents=True, exist_ok=True)
    numbered = enumerate(generate(count, seed))
    with (folder / TRUTH).open("w", encoding="utf-8") as truth:
        while group := list(islice(numbered, _GROUP)):
            legacy = [report for index, report in group if suffix(index, form) == "doc"]
            write_docs(legacy, folder, done) if legacy else None
            for index, report in group:
                name = f"{report.id}.{suffix(index, form)}"
                if suffix(index, form) == "docx":
                    write_docx(report, folder / name)
                    done(1)
                truth.write(json.dumps(truth_row(report, name), ensure_ascii=False) + "\n")


def zip_corpus(folder: Path, archive: Path) -> None:
    """Pack the documents that the truth file names, without it, into ``archive``."""
    with (
        (folder / TRUTH).open(encoding="utf-8") as truth,
        zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for line in truth:
            name = json.loads(line)["file"]
            entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
            packed.writestr(entry, (folder / name).read_bytes(), zipfile.ZIP_DEFLATED)

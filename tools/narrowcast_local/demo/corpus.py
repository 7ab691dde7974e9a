"""The demo's corpus: the shipped sample files and more from the same generator."""

import json
import zipfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from narrowcast_local.samples import Report, generate, write_docx

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
SIZE = 120
_TRUTH = "truth.jsonl"


@dataclass(frozen=True)
class DemoCorpus:
    """A zip of documents, and what is true of them."""

    archive: Path
    reports: list[Report]
    shipped: int

    def leaks(self, texts: list[str]) -> list[str]:
        """Return the personal data that still stand in ``texts``.

        A datum leaks if any text of the dataset holds it: whose report it came from does not
        matter to the person it names.
        """
        everything = "\n".join(texts)
        values = {datum.text for report in self.reports for datum in report.personal}
        return sorted(value for value in values if value in everything)


def build(archive: Path) -> DemoCorpus:
    """Write the corpus to ``archive``: 40 shipped files, of which half are binary .doc, and 80 new .docx."""
    lines = (SAMPLES / _TRUTH).read_text(encoding="utf-8").splitlines()
    shipped = [json.loads(line)["file"] for line in lines]
    reports = list(generate(SIZE))
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target, TemporaryDirectory() as scratch:
        for name in shipped:
            target.write(SAMPLES / name, name)
        for report in islice(reports, len(shipped), None):
            path = Path(scratch) / f"{report.id}.docx"
            write_docx(report, path)
            target.write(path, path.name)
    return DemoCorpus(archive, reports, len(shipped))

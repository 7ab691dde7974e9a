"""How well does preprocessing read, cut and de-identify, and how fast?

``python benchmarks/preprocessing.py [--reports 1000] [--data ../shared/data]`` prints a table;
its last line with ``--json`` is one JSON object. The synthetic reports carry their truth; the
real data sets are measured where the folder given by ``--data`` or ``NARROWCAST_TEST_DATA``
has them.
"""

import argparse
import json
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from narrowcast.errors import DocumentRejected
from narrowcast_gateway.preprocessing.deidentification import Deidentifier, Kind
from narrowcast_gateway.preprocessing.pipeline import DocumentProcessor
from narrowcast_gateway.preprocessing.reading import read_document
from narrowcast_gateway.preprocessing.sections import find_sections
from narrowcast_local.samples import PersonalDatum, Report, generate, write_docx

REPOSITORY = Path(__file__).resolve().parents[1]
WORD = re.compile(r"[^\W_]+")


@dataclass
class Score:
    """Counts over a set of documents."""

    documents: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    exact_descriptions: int = 0
    exact_conclusions: int = 0
    right_studies: int = 0
    data_in_sections: int = 0
    data_left: int = 0
    leaked_documents: int = 0
    header_data_left: int = 0
    clean_words: int = 0
    clean_words_lost: int = 0
    seconds: float = 0.0

    def rates(self) -> dict[str, object]:
        read = max(1, self.documents - sum(self.rejected.values()))
        return {
            "documents": self.documents,
            "rejected": dict(self.rejected),
            "description_exact": round(self.exact_descriptions / read, 4),
            "conclusion_exact": round(self.exact_conclusions / read, 4),
            "study_right": round(self.right_studies / read, 4),
            "personal_data_in_sections": self.data_in_sections,
            "personal_data_recall": round(1 - self.data_left / max(1, self.data_in_sections), 4),
            "header_data_left": self.header_data_left,
            "leaked_documents": self.leaked_documents,
            "clean_words_lost": round(self.clean_words_lost / max(1, self.clean_words), 5),
            "documents_per_second": round(self.documents / self.seconds, 1) if self.seconds else None,
        }


def squeeze(text: str) -> str:
    return " ".join(text.split())


def words(text: str) -> Counter[str]:
    return Counter(word.lower().replace("ё", "е") for word in WORD.findall(text))


def section_data(
    text: str, section: str, personal: Iterable[PersonalDatum]
) -> tuple[list[PersonalDatum], str]:
    """Data inside ``section`` and the section with them blanked."""
    start = text.index(section)
    inside = [datum for datum in personal if start <= datum.start and datum.end <= start + len(section)]
    clean = list(section)
    for datum in inside:
        clean[datum.start - start : datum.end - start] = " " * (datum.end - datum.start)
    return inside, "".join(clean)


def is_left(datum: PersonalDatum, output: str) -> bool:
    """Whether a datum, or for people any part of the name longer than an initial, is in ``output``."""
    if datum.kind == "person":
        present = words(output)
        return any(len(word) > 2 and word in present for word in words(datum.text))
    return squeeze(datum.text) in squeeze(output)


def score_reports(
    pairs: Iterable[tuple[Report, bytes]], processor: DocumentProcessor, verbose: bool
) -> Score:
    score = Score()
    for report, data in pairs:
        score.documents += 1
        # Processor time: the figure is per core, whatever else the machine does.
        started = time.process_time()
        try:
            result = processor.process(data)
        except DocumentRejected as error:
            score.rejected[error.code] += 1
            if verbose:
                print(f"  {report.id} {report.layout}: {error.code}")
            continue
        score.seconds += time.process_time() - started
        found = find_sections(read_document(data).body)
        right = (
            squeeze(found.description) == squeeze(report.description),
            squeeze(found.conclusion) == squeeze(report.conclusion),
        )
        score.exact_descriptions += right[0]
        score.exact_conclusions += right[1]
        score.right_studies += result.study == report.study
        left = count_data(report, f"{result.description}\n{result.conclusion}", score)
        if verbose and (left or not all(right) or result.study != report.study):
            print(f"  {report.id} {report.layout}: sections {right}, study {result.study!r}, left {left}")
    return score


def count_data(report: Report, output: str, score: Score) -> list[str]:
    """Add the report's data to ``score``; returns the kinds (and for the eye, texts) left."""
    inside: list[PersonalDatum] = []
    clean = ""
    for section in (report.description, report.conclusion):
        data, blanked = section_data(report.text, section, report.personal)
        inside += data
        clean += f"\n{blanked}"
    left = [f"{datum.kind} {datum.text}" for datum in inside if is_left(datum, output)]
    innocent = words(clean)
    others = [datum for datum in report.personal if datum not in inside]
    header_left = [
        datum.text
        for datum in others
        # A surname that is also a word of the clean text («Белый») proves nothing.
        if is_left(datum, output) and words(datum.text).keys().isdisjoint(innocent)
    ]
    lost = innocent - words(output)
    # «12 марта 2024 г.»: the generator's span ends before the «г.», ours behind it.
    del lost["г"]
    score.data_in_sections += len(inside)
    score.data_left += len(left)
    score.header_data_left += len(header_left)
    score.leaked_documents += bool(left or header_left)
    score.clean_words += sum(innocent.values())
    score.clean_words_lost += sum(lost.values())
    return left + header_left + [f"lost {word}" for word in lost]


def generated(count: int, seed: int) -> Iterator[tuple[Report, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.docx"
        for report in generate(count, seed):
            write_docx(report, path)
            yield report, path.read_bytes()


def shipped(suffix: str) -> Iterator[tuple[Report, bytes]]:
    folder = REPOSITORY / "tools" / "samples"
    for line in (folder / "truth.jsonl").read_text(encoding="utf-8").splitlines():
        truth = json.loads(line)
        path = next(folder.glob(f"{Path(truth['file']).stem}{suffix}"), None)
        if path is not None:
            fields = {name: truth[name] for name in ("study", "layout", "text", "description", "conclusion")}
            personal = tuple(PersonalDatum(**datum) for datum in truth["personal"])
            yield Report(id=path.stem, **fields, personal=personal), path.read_bytes()


def score_news_names(folder: Path, deidentifier: Deidentifier, shout: bool) -> dict[str, float]:
    """Share of gold person-name parts (surname, name, patronymic) covered on factRuEval."""
    total = found = 0
    for spans in sorted(folder.glob("*.spans")):
        text = spans.with_suffix(".txt").read_text(encoding="utf-8")
        text = text.upper() if shout and len(text.upper()) == len(text) else text
        covered: set[int] = set()
        for span in deidentifier.find(text):
            if span.kind is Kind.PERSON:
                covered.update(range(span.start, span.stop))
        for line in spans.read_text(encoding="utf-8").splitlines():
            _, kind, start, length, *_ = line.split()
            if kind in {"surname", "name", "patronymic"}:
                total += 1
                found += covered.issuperset(range(int(start), int(start) + int(length)))
    return {"parts": total, "found": round(found / max(1, total), 4)}


def score_clean_reports(file: Path, deidentifier: Deidentifier, verbose: bool) -> dict[str, object]:
    """What is redacted in reports that hold no names; dates in them are shifted and real."""
    redacted: Counter[str] = Counter()
    total = 0
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for text in (row["findings"], row["impression"]):
            total += len(WORD.findall(text))
            for span in deidentifier.find(text):
                redacted[str(span.kind)] += 1
                if verbose:
                    before = text[max(0, span.start - 25) : span.start]
                    print(f"  {span.kind}: {before}>>{text[span.start : span.stop]}<<")
    return {"words": total, "redacted": dict(redacted)}


def score_real_files(folder: Path) -> dict[str, object]:
    """Outcome per suffix over Word files none of us made."""
    outcomes: Counter[str] = Counter()
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in {".doc", ".docx", ".docm", ".dotx"}:
            try:
                outcomes[f"{path.suffix.lower()} {read_document(path.read_bytes()).reader}"] += 1
            except DocumentRejected as error:
                outcomes[f"{path.suffix.lower()} rejected: {error.code}"] += 1
    return dict(sorted(outcomes.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("NARROWCAST_TEST_DATA", REPOSITORY.parent / "shared" / "data"),
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--verbose", action="store_true", help="show single findings; synthetic and public text only"
    )
    options = parser.parse_args()
    processor = DocumentProcessor()
    deidentifier = Deidentifier()
    table: dict[str, object] = {
        f"{options.reports} generated .docx": score_reports(
            generated(options.reports, options.seed), processor, options.verbose
        ).rates(),
        "shipped .docx": score_reports(shipped(".docx"), processor, options.verbose).rates(),
        "shipped .doc": score_reports(shipped(".doc"), processor, options.verbose).rates(),
    }
    news = Path(options.data) / "ner" / "factRuEval-2016" / "devset"
    if news.is_dir():
        table["names in news"] = score_news_names(news, deidentifier, shout=False)
        table["names in news, UPPER CASE"] = score_news_names(news, deidentifier, shout=True)
    pairs = Path(options.data) / "ru_radiology" / "pairs.jsonl"
    if pairs.is_file():
        table["real reports without names"] = score_clean_reports(pairs, deidentifier, options.verbose)
    files = Path(options.data) / "documents" / "poi"
    if files.is_dir():
        table["real Word files"] = score_real_files(files)
    for name, values in table.items():
        print(name)
        for key, value in (values if isinstance(values, dict) else {}).items():
            print(f"    {key:<40} {value}")
    if options.json:
        print(json.dumps(table, ensure_ascii=False))


if __name__ == "__main__":
    main()

"""The demo's own judgement: a leak is found, the corpus is what the report says."""

import zipfile
from pathlib import Path

import pytest

from narrowcast_local.demo import corpus
from narrowcast_local.demo.report import FILE_NAME, DemoReport


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> corpus.DemoCorpus:
    return corpus.build(tmp_path_factory.mktemp("corpus") / "corpus.zip")


def test_the_corpus_is_120_documents_of_which_20_are_binary_doc(made: corpus.DemoCorpus) -> None:
    with zipfile.ZipFile(made.archive) as archive:
        names = archive.namelist()
        doc = [name for name in names if name.endswith(".doc")]
        assert all(archive.read(name).startswith(b"\xd0\xcf\x11\xe0") for name in doc)
    assert (len(names), len(set(names)), len(doc)) == (120, 120, 20)


def test_a_leak_is_found_wherever_it_stands(made: corpus.DemoCorpus) -> None:
    datum = made.reports[7].personal[0]
    assert made.leaks(["Норма."]) == []
    assert datum.text in made.leaks(["Норма.", f"Пациент: {datum.text}."])


def test_a_failed_step_is_named_and_timed(tmp_path: Path) -> None:
    report = DemoReport()
    with report.step("start"):
        pass
    with pytest.raises(ZeroDivisionError), report.step("corpus"):
        _ = 1 / 0
    read = DemoReport.model_validate_json(report.write(tmp_path).read_text())
    assert (tmp_path / FILE_NAME).exists()
    assert (read.ok, read.failed_step, set(read.seconds)) == (False, "corpus", {"start", "corpus"})

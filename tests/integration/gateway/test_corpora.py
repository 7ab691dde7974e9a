"""Corpora: from upload to dataset, and every way an upload can be bad."""

import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docx import Document

from narrowcast.datasets import dataset_prefix
from narrowcast.jobs.running import RunningJob, run_job
from narrowcast.jobs.writing import record_key
from narrowcast_gateway.corpora import job as corpora_job
from narrowcast_gateway.corpora.janitor import DocumentJanitor
from narrowcast_gateway.corpora.job import preprocess
from narrowcast_gateway.preprocessing.splitting import split_rows
from narrowcast_gateway.settings import UploadSettings
from narrowcast_local.samples import generate, write_docx

Error = Callable[..., dict[str, Any]]
SAMPLES = Path(__file__).parents[3] / "tools" / "samples"


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def upload(gateway: Any, *files: tuple[str, bytes], **form: str | list[str]) -> Any:
    return gateway.http.post("/v1/corpora", files=[("files", file) for file in files], data=form)


def word(*paragraphs: str) -> bytes:
    document = Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Twenty documents: ten of the shipped files and ten new ones."""
    folder = tmp_path_factory.mktemp("reports")
    documents = {}
    for path in sorted(SAMPLES.glob("report-*.doc*"))[:10]:
        documents[f"Иванов И.И. {path.name}"] = path.read_bytes()
    for report in list(generate(50))[40:]:
        write_docx(report, folder / "x.docx")
        documents[f"{report.id}.docx"] = (folder / "x.docx").read_bytes()
    return documents


def test_a_zip_becomes_a_dataset(gateway: Any, reports: dict[str, bytes]) -> None:
    bad = {"broken.doc": b"\xd0\xcf\x11\xe0broken", "note.txt": b"hello"}
    response = upload(gateway, ("corpus.zip", zipped(reports | bad)), test="0.2", validation="0.1")
    assert response.status_code == 202, response.text
    created = response.json()
    assert created["status"] == "queued"
    assert len(created["uploaded"]) == len(reports) + 2
    job = gateway.run_corpus(created["id"])
    corpus = gateway.http.get(f"/v1/corpora/{created['id']}").json()
    assert corpus["status"] == "succeeded", job
    assert corpus["documents"] == {"total": 22, "read": 20, "rejected": 2}
    assert {rejected["code"] for rejected in corpus["rejected"]} <= {
        "not_a_word_document",
        "corrupt_document",
    }
    assert "Иванов" not in json.dumps(corpus, ensure_ascii=False)
    names = {entry["document"]: entry["filename"] for entry in created["uploaded"]}
    assert {names[rejected["document"]] for rejected in corpus["rejected"]} == set(bad)

    dataset = gateway.http.get(f"/v1/datasets/{corpus['dataset']}").json()
    assert sum(dataset["rows"].values()) == 20
    assert dataset["rows"]["test"] >= 1
    array = gateway.http.get(f"/v1/datasets/{corpus['dataset']}/content?format=json").json()
    assert len(array) == 20
    assert all(set(row) == {"instruction", "input", "output"} for row in array)
    lines = gateway.http.get(
        f"/v1/datasets/{corpus['dataset']}/content?format=jsonl&split=train"
    ).text.splitlines()
    assert len(lines) == dataset["rows"]["train"]
    assert json.loads(lines[0])["document"].startswith("doc-")


def test_the_deidentification_log_has_counts_and_hashes_only(gateway: Any, reports: dict[str, bytes]) -> None:
    created = upload(gateway, ("corpus.zip", zipped(reports))).json()
    gateway.run_corpus(created["id"])
    dataset = gateway.http.get(f"/v1/corpora/{created['id']}").json()["dataset"]
    manifest = gateway.services.datasets.get(gateway.tenant, dataset)
    log = gateway.services.datasets.file(manifest, "deidentification.jsonl").decode()
    entries = [json.loads(line) for line in log.splitlines()]
    assert len(entries) == 20
    assert all(set(entry) == {"document", "sha256", "reader", "redactions"} for entry in entries)


def test_originals_are_deleted_when_the_job_has_ended(gateway: Any, reports: dict[str, bytes]) -> None:
    created = upload(gateway, ("corpus.zip", zipped(reports))).json()
    bucket = gateway.services.connections.storage.documents
    prefix = f"{gateway.tenant}/{created['id']}/"
    janitor = DocumentJanitor(gateway.services.connections, UploadSettings())
    janitor.sweep()
    assert list(bucket.keys(prefix)), "the job still needs them"
    gateway.http.post(f"/v1/corpora/{created['id']}/cancel")
    janitor.sweep()
    assert not list(bucket.keys(prefix))


def test_a_large_upload_lies_in_pieces_that_a_listing_shows(
    gateway: Any, reports: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a gateway that dies meanwhile leaves behind is then found, and deleted."""
    monkeypatch.setattr("narrowcast_gateway.corpora.service._PIECE_BYTES", 10_000)
    archive = zipped(reports)
    created = upload(gateway, ("corpus.zip", archive), ("one.docx", next(iter(reports.values())))).json()[
        "id"
    ]
    bucket = gateway.services.connections.storage.documents
    keys = list(bucket.keys(f"{gateway.tenant}/{created}/"))
    assert len(keys) > len(archive) / 10_000 > 3
    assert max(len(bucket.get(key)) for key in keys) == 10_000
    gateway.run_corpus(created)
    done = gateway.http.get(f"/v1/corpora/{created}").json()
    assert done["status"] == "succeeded", done
    assert done["documents"]["read"] == len(reports) + 1


def test_a_record_of_a_newer_version_keeps_no_other_originals(
    gateway: Any, reports: dict[str, bytes]
) -> None:
    foreign, created = (upload(gateway, ("corpus.zip", zipped(reports))).json()["id"] for _ in range(2))
    connections = gateway.services.connections
    record = (
        connections.jobs.get(foreign).model_dump_json().replace('"status":"queued"', '"status":"archiving"')
    )
    connections.redis.set(record_key(foreign), record)
    gateway.http.post(f"/v1/corpora/{created}/cancel")
    DocumentJanitor(connections, UploadSettings()).sweep()
    assert list(connections.storage.documents.folders(f"{gateway.tenant}/")) == [foreign]


def test_a_corpus_has_one_dataset_though_an_attempt_was_lost_before_it_said_so(
    gateway: Any, reports: dict[str, bytes]
) -> None:
    created = upload(gateway, *list(reports.items())[:3]).json()
    jobs = gateway.services.connections.jobs

    def lost(running: RunningJob) -> dict[str, Any]:
        result = preprocess(running, gateway.services)
        jobs.reap(running.job.id, time.time() + 3600)
        return result

    run_job(jobs, gateway.settings.jobs, created["id"], lost)
    assert jobs.get(created["id"]).status == "queued"
    result = gateway.run_corpus(created["id"]).result
    assert [dataset["id"] for dataset in gateway.http.get("/v1/datasets").json()["data"]] == [
        result["dataset"]
    ]


def test_a_corpus_that_is_cancelled_while_its_reports_are_compared_becomes_no_dataset(
    gateway: Any, reports: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    created = upload(gateway, *list(reports.items())[:3]).json()
    running: list[RunningJob] = []

    def compare(*arguments: Any, **more: Any) -> Any:
        gateway.http.post(f"/v1/corpora/{created['id']}/cancel")
        running[0].renew()
        return split_rows(*arguments, **more)

    def run(job: RunningJob) -> dict[str, Any]:
        running.append(job)
        return preprocess(job, gateway.services)

    monkeypatch.setattr(corpora_job, "split_rows", compare)
    jobs = gateway.services.connections.jobs
    run_job(jobs, gateway.settings.jobs, created["id"], run)
    assert jobs.get(created["id"]).status == "cancelled"
    assert gateway.http.get("/v1/datasets").json()["data"] == []


def test_a_retention_time_keeps_originals(gateway: Any, reports: dict[str, bytes]) -> None:
    created = upload(gateway, ("corpus.zip", zipped(reports))).json()
    gateway.http.post(f"/v1/corpora/{created['id']}/cancel")
    DocumentJanitor(gateway.services.connections, UploadSettings(retention_h=1)).sweep()
    assert list(gateway.services.connections.storage.documents.keys(f"{gateway.tenant}/{created['id']}/"))


def test_many_files_are_one_corpus(gateway: Any, reports: dict[str, bytes]) -> None:
    files = list(reports.items())[:3]
    created = upload(gateway, *files).json()
    assert [entry["filename"] for entry in created["uploaded"]] == [name for name, _ in files]
    assert gateway.run_corpus(created["id"]).result["documents"]["read"] == 3


def bomb() -> bytes:
    return zipped({"report.doc": b"\0" * (64 * 1024 * 1024)})


def climbing() -> bytes:
    return zipped({"../../etc/report.docx": word("Описание: норма", "Заключение: норма")})


BAD_UPLOADS: list[tuple[str, bytes | Callable[[], bytes], str]] = [
    ("empty.zip", zipped({}), "empty_archive"),
    ("folders.zip", zipped({"folder/": b""}), "empty_archive"),
    ("bomb.zip", bomb, "zip_bomb"),
    ("climbing.zip", climbing, "unsafe_path"),
    ("truncated.zip", zipped({"a.docx": b"abc" * 100})[:-30], "corrupt_archive"),
    ("report.docx", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "not_a_word_document"),
    ("report.doc", b"MZ" + b"\0" * 100, "not_a_word_document"),
    ("notes.zip", zipped({"a.doc": b"\x89PNG", "b.doc": b"GIF89a"}), "no_usable_document"),
    ("letter.docx", word("Справка выдана для предъявления по месту требования."), "no_conclusion"),
]


@pytest.mark.parametrize(("name", "content", "code"), BAD_UPLOADS, ids=[case[0] for case in BAD_UPLOADS])
def test_bad_uploads_are_refused_and_leave_nothing(
    gateway: Any, error: Error, name: str, content: bytes | Callable[[], bytes], code: str
) -> None:
    data = content if isinstance(content, bytes) else content()
    assert error(upload(gateway, (name, data)), 400, code)["param"] == "files"
    assert gateway.http.get("/v1/corpora").json()["data"] == []
    assert not list(gateway.services.connections.storage.documents.keys(f"{gateway.tenant}/"))


def test_a_password_protected_file_is_refused(gateway: Any, error: Error, test_data: Path) -> None:
    data = (test_data / "documents" / "poi" / "password_password_cryptoapi.doc").read_bytes()
    error(upload(gateway, ("report.doc", data)), 400, "password_protected")


def test_no_files_and_bad_shares(gateway: Any, error: Error) -> None:
    error(gateway.http.post("/v1/corpora"), 400, "invalid_parameter")
    files = [("a.docx", word("x"))]
    error(upload(gateway, *files, test="1.5"), 400, "invalid_parameter")
    error(upload(gateway, *files, test="0.6", validation="0.6"), 400, "invalid_input")


def test_a_large_corpus_without_a_usable_document_fails_with_the_reason(gateway: Any) -> None:
    files = {f"{number}.doc": b"GIF89a" for number in range(22)}
    files |= {f"{number}.docx": word("Справка") for number in range(22, 25)}
    created = upload(gateway, ("corpus.zip", zipped(files))).json()
    gateway.run_corpus(created["id"])
    corpus = gateway.http.get(f"/v1/corpora/{created['id']}").json()
    assert (corpus["status"], corpus["error"]["code"]) == ("failed", "no_usable_document")
    reasons = "22 not_a_word_document, 3 no_conclusion"
    assert corpus["error"]["message"] == f"none of the 25 documents can be used: {reasons}"
    assert corpus["documents"] == {"total": 25, "read": 0, "rejected": 25}
    assert [rejected["code"] for rejected in corpus["rejected"]][21:23] == [
        "not_a_word_document",
        "no_conclusion",
    ]
    assert {rejected["document"] for rejected in corpus["rejected"]} == {
        document["document"] for document in created["uploaded"]
    }
    assert corpus["dataset"] is None


DAMAGED = [word("Описание: норма", "Заключение: норма")[:-200], b"PK\x03\x04damaged"]


@pytest.mark.parametrize("damaged", DAMAGED, ids=["cut off", "rubbish"])
def test_a_damaged_document_among_files_is_rejected_alone(
    gateway: Any, error: Error, reports: dict[str, bytes], damaged: bytes
) -> None:
    good = next(iter(reports.values()))
    created = upload(gateway, ("Иванов.docx", damaged), ("corpus.zip", zipped({"a.docx": good}))).json()
    assert len(created["uploaded"]) == 2
    result = gateway.run_corpus(created["id"]).result
    assert [(r["document"], r["code"]) for r in result["rejected"]] == [("doc-000001", "corrupt_document")]
    assert result["documents"] == {"total": 2, "read": 1, "rejected": 1}
    assert error(upload(gateway, ("Иванов.docx", damaged)), 400, "corrupt_document")["param"] == "files"


@pytest.mark.parametrize(
    ("content", "code"),
    [(zipped({"a.docx": b"abc" * 100})[:-30], "corrupt_archive"), (zipped({}), "empty_archive")],
    ids=["damaged", "empty"],
)
def test_a_bad_archive_among_files_is_named_by_its_place(
    gateway: Any, error: Error, content: bytes, code: str
) -> None:
    files = [("a.docx", word("Описание: норма", "Заключение: норма")), ("Иванов.ZIP", content)]
    found = error(upload(gateway, *files), 400, code)
    assert found["param"] == "files"
    assert found["message"].startswith("file 2: ")
    assert "Иванов" not in found["message"]


@pytest.mark.parametrize("field", ["validaton", "file"])
def test_a_form_field_that_is_not_known_is_refused(gateway: Any, error: Error, field: str) -> None:
    files = [("a.docx", word("Описание: норма", "Заключение: норма"))]
    found = error(upload(gateway, *files, **{field: "0.2"}), 400, "unknown_parameter")
    assert (found["param"], found["message"]) == (field, f"the form field {field} is not known here")
    assert error(upload(gateway, *files, Иванов="0.2"), 400, "unknown_parameter")["param"] is None
    twice = upload(gateway, *files, validation=["0.2", "0.3"])
    assert error(twice, 400, "repeated_parameter")["param"] == "validation"
    assert gateway.http.get("/v1/corpora").json()["data"] == []


def test_a_body_over_the_limit_is_refused(gateway: Any, error: Error) -> None:
    headers = {"Content-Length": str(10**12), "Content-Type": "application/json"}
    error(gateway.http.post("/v1/files", content=b"x", headers=headers), 413, "body_too_large")


def test_a_dataset_without_manifest_does_not_exist(gateway: Any) -> None:
    dataset_id = "dataset-" + "0" * 24
    bucket = gateway.services.connections.storage.data
    bucket.put(dataset_prefix(gateway.tenant, dataset_id) + "train.jsonl", b"{}")
    assert gateway.http.get(f"/v1/datasets/{dataset_id}").status_code == 404
    assert gateway.http.get("/v1/datasets").json()["data"] == []

"""``/v1/exports``: what is refused, whose exports one sees, downloads that are continued."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef, adapter_prefix
from narrowcast.artifacts import publish
from narrowcast.exports import ExportManifest, export_prefix
from narrowcast.ids import new_id
from narrowcast.jobs.records import Job, JobKind, JobStatus

Error = Callable[..., dict[str, Any]]
ADAPTER = "reports-0"
BASE = "smollm2-135m-instruct"
CONTENT = bytes(range(256)) * 9000
"""More than the megabyte that is streamed at a time."""
NAME = "model-q4_k_m.gguf"


@pytest.fixture
def models(gateway: Any) -> Any:
    """The models bucket, with an adapter of the tenant."""
    bucket = gateway.services.connections.storage.models
    base = BaseModelRef(name="smollm2-135m-instruct", fingerprint="0" * 64)
    manifest = AdapterManifest(
        id=ADAPTER,
        tenant=gateway.tenant,
        base=base,
        prompt=PromptRef(template="t", hash="h", default_instruction="Опиши."),
        rank=8,
        engine="peft",
        dataset="ds-0",
        job="ftjob-0",
    )
    publish(bucket, adapter_prefix(gateway.tenant, ADAPTER), {"weights": b"x"}, manifest)
    return bucket


@pytest.fixture
def finished(gateway: Any, models: Any) -> str:
    """An export that a trainer has made."""
    export_id: str = gateway.http.post("/v1/exports", json={"adapter": ADAPTER}).json()["id"]
    jobs = gateway.services.connections.jobs
    jobs.claim_next(JobKind.TRAINING, "trainer")  # whichever is first in the trainers' line
    manifest = ExportManifest(
        id=export_id,
        tenant=gateway.tenant,
        adapter=ADAPTER,
        base=BaseModelRef(name="smollm2-135m-instruct", fingerprint="0" * 64),
        format="gguf",
        quantization="q4_k_m",
    )
    prefix = export_prefix(gateway.tenant, export_id)
    files = publish(models, prefix, {NAME: CONTENT, "empty": b""}, manifest).files
    result = {"files": {name: entry.model_dump() for name, entry in files.items()}, "hub_url": None}
    jobs.finish(export_id, "trainer", JobStatus.SUCCEEDED, result=result)
    return export_id


def test_an_export_is_queued_listed_and_cancelled(gateway: Any, models: Any) -> None:
    response = gateway.http.post("/v1/exports", json={"adapter": ADAPTER})
    assert response.status_code == 202
    created = response.json()
    assert (created["status"], created["format"], created["quantization"]) == ("queued", "gguf", "q4_k_m")
    assert (created["base_model"], created["files"], created["step"]) == ("smollm2-135m-instruct", [], None)
    assert gateway.http.get(f"/v1/exports/{created['id']}").json() == created
    assert gateway.http.get("/v1/exports").json()["data"] == [created]
    path = f"/v1/exports/{created['id']}/cancel"
    assert gateway.http.post(path).json()["status"] == "cancelled"
    assert gateway.http.post(path).status_code == 409


@pytest.mark.parametrize(
    "body",
    [
        {"format": "awq"},
        {"quantization": "q5_k_m"},
        {"format": "merged", "quantization": "q8_0"},
        {"format": "lora-gguf", "quantization": "f16"},
        {"push_to_hub": {"repo_id": "no-owner"}},
        {"push_to_hub": {"repo_id": "owner/../x"}},
        {"push_to_hub": {"repo_id": "owner/mri--reports"}},
        {"push_to_hub": {"repo_id": "owner/name", "token": "hf_x"}},
        {"token": "hf_x"},
        {"adapter": 1},
    ],
)
def test_what_cannot_be_exported_is_refused(
    gateway: Any, models: Any, error: Error, body: dict[str, Any]
) -> None:
    response = gateway.http.post("/v1/exports", json={"adapter": ADAPTER} | body)
    error(response, 400, "invalid_parameter")
    assert "hf_x" not in response.text


def test_what_is_wrong_is_named(gateway: Any, models: Any, error: Error) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "quantization": {"format": "merged", "quantization": "q8_0"},
        "push_to_hub.repo_id": {"push_to_hub": {"repo_id": "owner/reports.git"}},
    }
    for param, body in wrong.items():
        response = gateway.http.post("/v1/exports", json={"adapter": ADAPTER} | body)
        assert error(response, 400, "invalid_parameter")["param"] == param


@pytest.mark.parametrize("name", ["a", "a/b/c", "-a/b", "a/b\n", "a/" + "b" * 97])
def test_the_form_of_a_repositorys_name_is_said_in_words(
    gateway: Any, models: Any, error: Error, name: str
) -> None:
    body = {"adapter": ADAPTER, "push_to_hub": {"repo_id": name}}
    found = error(gateway.http.post("/v1/exports", json=body), 400, "invalid_parameter")
    assert found["message"].startswith("push_to_hub.repo_id: owner/name")
    assert "[A-Z" not in found["message"]


def test_an_export_of_an_earlier_version_is_shown(gateway: Any, models: Any) -> None:
    spec = {"adapter": ADAPTER, "format": "gguf", "base_model": "b", "push_to_hub": {"repo_id": "a/b--c"}}
    job = Job(id=new_id(JobKind.EXPORT), kind=JobKind.EXPORT, tenant=gateway.tenant, spec=spec)
    gateway.services.connections.jobs.submit(job)
    assert [export["id"] for export in gateway.http.get("/v1/exports").json()["data"]] == [job.id]


def test_an_unknown_adapter(gateway: Any, error: Error) -> None:
    for adapter, said in (("reports-1", "not exist"), ("../x", "not exist"), (BASE, "is a base model")):
        response = gateway.http.post("/v1/exports", json={"adapter": adapter})
        found = error(response, 404, "model_not_found")
        assert found["param"] == "adapter"
        assert said in found["message"]
    shown = error(gateway.http.get(f"/v1/adapters/{BASE}"), 404, "model_not_found")
    assert "is a base model, not an adapter" in shown["message"]


def test_another_tenants_exports_are_not_found(gateway: Any, finished: str, error: Error) -> None:
    stranger = gateway.as_tenant("stranger").http
    error(stranger.get(f"/v1/exports/{finished}"), 404, "not_found")
    error(stranger.get(f"/v1/exports/{finished}/files/{NAME}"), 404, "not_found")
    error(stranger.post(f"/v1/exports/{finished}/cancel"), 404, "not_found")
    error(stranger.delete(f"/v1/exports/{finished}"), 404, "not_found")
    error(stranger.post("/v1/exports", json={"adapter": ADAPTER}), 404, "model_not_found")
    assert stranger.get("/v1/exports").json()["data"] == []
    assert gateway.http.get(f"/v1/exports/{finished}").status_code == 200


def test_a_file_is_downloaded_whole(gateway: Any, finished: str) -> None:
    (file, empty) = gateway.http.get(f"/v1/exports/{finished}").json()["files"]
    assert (file["name"], file["size"]) == (NAME, len(CONTENT))
    response = gateway.http.get(f"/v1/exports/{finished}/files/{file['name']}")
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["ETag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"' == f'"{file["sha256"]}"'
    assert response.headers["Content-Length"] == str(len(CONTENT))
    assert gateway.http.get(f"/v1/exports/{finished}/files/{empty['name']}").content == b""


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000000-", 1_000_000, len(CONTENT)),
        ("bytes=1048570-1048590", 1_048_570, 1_048_591),
        ("bytes=-5", len(CONTENT) - 5, len(CONTENT)),
        (f"bytes={len(CONTENT) - 1}-99999999", len(CONTENT) - 1, len(CONTENT)),
    ],
)
def test_a_part_is_downloaded(gateway: Any, finished: str, header: str, start: int, end: int) -> None:
    response = gateway.http.get(f"/v1/exports/{finished}/files/{NAME}", headers={"Range": header})
    assert response.status_code == 206
    assert response.content == CONTENT[start:end]
    assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"


def test_ranges_that_are_none(gateway: Any, finished: str) -> None:
    path = f"/v1/exports/{finished}/files/{NAME}"
    many = "9" * 5000
    for header in (
        *("bytes=5-2", "bytes=0-1,4-5", "items=0-1", "bytes=-", "x"),
        *(f"bytes=0-{many}", f"bytes={many}-", f"bytes=-{many}"),
    ):
        response = gateway.http.get(path, headers={"Range": header})
        assert (response.status_code, len(response.content)) == (200, len(CONTENT)), header[:20]
    for header in (f"bytes={len(CONTENT)}-", "bytes=-0"):
        response = gateway.http.get(path, headers={"Range": header})
        assert response.json()["error"]["code"] == "range_not_satisfiable", header
        assert response.status_code == 416, header
        assert response.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
    changed = gateway.http.get(path, headers={"Range": "bytes=0-1", "If-Range": '"another"'})
    assert changed.status_code == 200


def test_a_download_is_announced(gateway: Any, finished: str) -> None:
    path = f"/v1/exports/{finished}/files/{NAME}"
    said = gateway.http.head(path, headers={"Range": "bytes=0-0"})
    assert (said.status_code, said.content) == (200, b"")
    whole = gateway.http.get(path)
    for header in ("Content-Length", "Content-Type", "ETag", "Accept-Ranges", "Content-Disposition"):
        assert said.headers[header] == whole.headers[header]
    assert gateway.http.head(f"/v1/exports/{finished}/files/manifest.json").status_code == 404
    assert gateway.as_tenant("stranger").http.head(path).status_code == 404


def test_files_that_are_not_there(gateway: Any, finished: str, error: Error) -> None:
    queued = gateway.http.post("/v1/exports", json={"adapter": ADAPTER}).json()["id"]
    for path in (f"{finished}/files/manifest.json", f"{finished}/files/..%2fx", f"{queued}/files/{NAME}"):
        assert gateway.http.get(f"/v1/exports/{path}").status_code == 404
    error(gateway.http.delete(f"/v1/exports/{queued}"), 409, "export_not_ended")


def test_an_export_is_deleted_with_its_files(gateway: Any, finished: str, models: Any, error: Error) -> None:
    answer = gateway.http.delete(f"/v1/exports/{finished}").json()
    assert answer == {"id": finished, "object": "export", "deleted": True}
    assert list(models.keys(export_prefix(gateway.tenant, finished))) == []
    error(gateway.http.get(f"/v1/exports/{finished}"), 404, "not_found")
    error(gateway.http.get(f"/v1/exports/{finished}/files/{NAME}"), 404, "not_found")
    error(gateway.http.delete(f"/v1/exports/{finished}"), 404, "not_found")
    assert gateway.http.get("/v1/exports").json()["data"] == []

"""Training files: what is taken, what is refused, and how they are listed."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from narrowcast.datasets import DatasetManifest
from narrowcast.errors import Unavailable
from narrowcast.ids import new_id
from narrowcast.storage import Bucket

BASE = "smollm2-135m-instruct"
ROW = {"instruction": "Опиши", "input": "Грыжа L4-L5", "output": "Грыжа 5 мм."}
Error = Callable[..., dict[str, Any]]


def upload(gateway: Any, content: str | bytes) -> Any:
    return gateway.http.post(
        "/v1/files", files={"file": ("Иванов.jsonl", content)}, data={"purpose": "fine-tune"}
    )


def test_a_file_is_not_called_by_its_name(gateway: Any) -> None:
    """It may be a patient's."""
    response = upload(gateway, json.dumps(ROW, ensure_ascii=False))
    assert response.status_code == 200, response.text
    assert "Иванов" not in response.text


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROW),
        json.dumps([ROW, ROW]),
        "\ufeff" + json.dumps(ROW, ensure_ascii=False) + "\r\n\n" + json.dumps(ROW),
        json.dumps(
            {
                "messages": [
                    {"role": "system", "content": "i"},
                    {"role": "user", "content": "u"},
                    {"role": "assistant", "content": "a"},
                ]
            }
        ),
    ],
)
def test_training_files_in_every_accepted_form(gateway: Any, content: str) -> None:
    response = upload(gateway, content)
    assert response.status_code == 200, response.text
    file_id = response.json()["id"]
    assert gateway.http.get(f"/v1/files/{file_id}/content").content == content.encode()
    rows = gateway.http.get(f"/v1/datasets/{file_id}/content?format=json").json()
    assert rows
    assert set(rows[0]) == {"instruction", "input", "output"}


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        ("", "empty_training_file", "file"),
        ("[]", "empty_training_file", "file"),
        (b"\xff\xfe\x00", "invalid_training_file", "file"),
        ("{", "invalid_training_file", "line 1"),
        (json.dumps(ROW) + "\nИванов", "invalid_training_file", "line 2"),
        (json.dumps(ROW) + "\n" + json.dumps(ROW | {"output": " "}), "empty_output", "line 2"),
        (json.dumps([ROW, ROW | {"output": ""}]), "empty_output", "row 2"),
        (json.dumps({"input": "Иванов", "output": "b"}), "invalid_training_file", "line 1"),
        (json.dumps(ROW | {"instruction": 5}), "invalid_training_file", "line 1"),
        (json.dumps(ROW | {"output": float("nan")}), "invalid_training_file", "line 1"),
        (json.dumps(ROW | {"output": ["Иванов"]}), "invalid_training_file", "line 1"),
        (json.dumps(ROW | {"output": "\ud800"}), "invalid_training_file", "line 1"),
        (json.dumps({"instruction": "a", "input": "b"}), "invalid_training_file", "line 1"),
        (
            json.dumps({"messages": [{"role": "user", "content": "Иванов"}]}),
            "invalid_training_file",
            "line 1",
        ),
        (json.dumps(ROW | {"output": "\u200b \ufeff\u2800"}), "empty_output", "line 1"),
        (json.dumps(ROW | {"input": "\u00ad\u3164"}), "invalid_training_file", "line 1"),
        ("[1, 2]", "invalid_training_file", "row 1"),
        ("[" * 100_000, "invalid_training_file", "file"),
        ('{"a":' * 100_000, "invalid_training_file", "line 1"),
        (
            json.dumps(
                {
                    "messages": [
                        {"role": "system", "content": "i"},
                        {"role": "user", "content": "u"},
                        {"role": "assistant", "content": "a", "weight": 0},
                    ]
                }
            ),
            "invalid_training_file",
            "line 1",
        ),
    ],
)
def test_bad_training_files_are_refused_by_line(
    gateway: Any, error: Error, content: str | bytes, code: str, param: str
) -> None:
    found = error(upload(gateway, content), 400, code)
    assert found["param"] == param
    assert "Иванов" not in found["message"]
    assert gateway.http.get("/v1/files").json()["data"] == [], "nothing is half-written"


def _chat(answer: dict[str, Any], **beside: Any) -> str:
    chat = [{"role": "system", "content": "i"}, {"role": "user", "content": "u"}]
    return json.dumps({"messages": [*chat, {"role": "assistant", "content": "a"} | answer]} | beside)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_chat({}, tools=[{"type": "function"}]), "line 1: tools cannot be trained with here"),
        (_chat({}, parallel_tool_calls=True), "parallel_tool_calls"),
        (_chat({"tool_calls": [{"id": "Иванов"}]}), "tool_calls"),
        (_chat({"weight": True}), "weight"),
        ("[5]", "row 1 is no object"),
        ('"Иванов"', "line 1 is no object"),
    ],
)
def test_what_would_be_dropped_or_misread_is_said(
    gateway: Any, error: Error, content: str, said: str
) -> None:
    found = error(upload(gateway, content), 400, "invalid_training_file")
    assert said in found["message"]
    assert "Иванов" not in found["message"]


def test_fields_of_a_chat_that_say_nothing_are_let_pass(gateway: Any) -> None:
    response = upload(gateway, _chat({"tool_calls": None, "weight": 1}, tools=[], functions=None))
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("end", ["", "\r\n--cut", "\r\n--other--\r\n"])
def test_a_form_that_is_cut_off_is_refused_also_if_its_last_field_may_be_left_out(
    gateway: Any, error: Error, end: str
) -> None:
    def part(name: str, content: str, more: str = "") -> str:
        return f'--cut\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{content}\r\n'

    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    file = part("file", json.dumps(ROW), '; filename="x"') + part("purpose", "fine-tune")
    for path, form in (
        ("files", file),
        ("corpora", part("files", "x", '; filename="x"') + part("seed", "1")),
    ):
        sent = gateway.http.post(f"/v1/{path}", content=form.removesuffix("\r\n") + end, headers=headers)
        assert "closing boundary" in error(sent, 400, "invalid_form")["message"]
    whole = gateway.http.post("/v1/files", content=f"{file}--cut--\r\n", headers=headers)
    assert whole.status_code == 200, whole.text


@pytest.mark.parametrize(
    ("files", "form", "code", "param"),
    [
        (["file"], {"expires_after[anchor]": "created_at"}, "unknown_parameter", "expires_after[anchor]"),
        (["file"], {"Иванов": "1"}, "unknown_parameter", None),
        (["file", "file"], {}, "repeated_parameter", "file"),
        (["file", "files"], {}, "unknown_parameter", "files"),
        (["file"], {"purpose": ["fine-tune", "fine-tune"]}, "repeated_parameter", "purpose"),
    ],
)
def test_form_fields_that_would_be_ignored_are_refused(
    gateway: Any, error: Error, files: list[str], form: dict[str, Any], code: str, param: str | None
) -> None:
    parts = [(name, ("rows.jsonl", json.dumps(ROW))) for name in files]
    found = error(
        gateway.http.post("/v1/files", files=parts, data={"purpose": "fine-tune"} | form), 400, code
    )
    assert found["param"] == param
    assert "Иванов" not in found["message"]
    assert gateway.http.get("/v1/files").json()["data"] == []


def test_a_dataset_is_no_file(gateway: Any, error: Error) -> None:
    manifest = DatasetManifest(
        id=new_id("dataset"), tenant=gateway.tenant, source=new_id("corpus"), rows={}, prompt_template="t"
    )
    gateway.services.datasets.write(manifest, {})
    error(gateway.http.get(f"/v1/files/{manifest.id}"), 404, "not_found")
    error(gateway.http.get(f"/v1/files/{manifest.id}/content"), 404, "not_found")
    error(gateway.http.delete(f"/v1/files/{manifest.id}"), 404, "not_found")
    assert gateway.http.get(f"/v1/datasets/{manifest.id}").status_code == 200


def test_a_file_is_not_deleted_as_a_dataset(gateway: Any, error: Error) -> None:
    file_id = upload(gateway, json.dumps(ROW)).json()["id"]
    found = error(gateway.http.delete(f"/v1/datasets/{file_id}"), 404, "not_found")
    assert "/v1/files" in found["message"]
    assert gateway.http.get(f"/v1/files/{file_id}/content").status_code == 200


def test_a_file_that_would_fill_the_memory_is_refused(
    gateway: Any, error: Error, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps(ROW) + "\n"
    monkeypatch.setattr(gateway.services.files, "_max_bytes", 9 * len(line))
    assert upload(gateway, line * 9).status_code == 200
    assert error(upload(gateway, line * 10), 413, "file_too_large")["param"] == "file"
    assert len(gateway.http.get("/v1/files").json()["data"]) == 1


@pytest.mark.parametrize("failing", ["delete", "delete_prefix"])
def test_a_deletion_that_the_object_store_breaks_off_is_repeated(
    gateway: Any, error: Error, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Its rows are patients' texts: none may stay because a manifest was deleted before them."""
    url = f"/v1/files/{upload(gateway, json.dumps(ROW)).json()['id']}"

    def fail(*_: object) -> None:
        raise Unavailable("no answer", code="storage_unavailable")

    with monkeypatch.context() as away:
        away.setattr(Bucket, failing, fail)
        error(gateway.http.delete(url), 503, "storage_unavailable")
    assert gateway.http.delete(url).status_code == 200
    assert list(gateway.services.connections.storage.data.keys(f"datasets/{gateway.tenant}/")) == []
    error(gateway.http.delete(url), 404, "not_found")


@pytest.mark.parametrize("named", ["training_file", "validation_file"])
def test_a_file_that_a_job_reads_stays_until_the_job_has_ended(
    gateway: Any, error: Error, named: str
) -> None:
    """A paused job could neither go on without it nor keep what it has trained."""
    files = [upload(gateway, json.dumps(ROW)).json()["id"] for _ in range(2)]
    order = {"model": "smollm2-135m-instruct", "training_file": files[0], "validation_file": files[1]}
    job_id = gateway.http.post("/v1/fine_tuning/jobs", json=order).json()["id"]
    assert gateway.http.post(f"/v1/fine_tuning/jobs/{job_id}/pause").json()["status"] == "paused"
    refused = error(gateway.http.delete(f"/v1/files/{order[named]}"), 409, "dataset_in_use")
    assert job_id in refused["message"]
    assert gateway.http.get(f"/v1/files/{order[named]}/content").status_code == 200
    assert gateway.http.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").status_code == 200
    assert gateway.http.delete(f"/v1/files/{order[named]}").json()["deleted"] is True


def test_files_are_listed_in_pages_and_in_either_order(gateway: Any, error: Error) -> None:
    line = json.dumps({"instruction": "a", "input": "b", "output": "c"})
    upload = {"files": {"file": ("rows.jsonl", line)}, "data": {"purpose": "fine-tune"}}
    ids = {gateway.http.post("/v1/files", **upload).json()["id"] for _ in range(3)}
    newest = [file["id"] for file in gateway.http.get("/v1/files").json()["data"]]
    assert set(newest) == ids
    first = gateway.http.get("/v1/files?limit=2").json()
    assert ([file["id"] for file in first["data"]], first["has_more"]) == (newest[:2], True)
    rest = gateway.http.get(f"/v1/files?limit=2&after={newest[1]}").json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (newest[2:], False)
    oldest = gateway.http.get("/v1/files?order=asc").json()["data"]
    assert [file["id"] for file in oldest] == newest[::-1]
    error(gateway.http.get("/v1/files?after=file-0"), 404, "not_found")

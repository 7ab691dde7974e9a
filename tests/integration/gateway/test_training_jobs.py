"""Submission of training data and jobs: OpenAI's shapes, and what is refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from narrowcast_gateway.settings import ServersSettings

BASE = "smollm2-135m-instruct"
ROW = {"instruction": "Опиши", "input": "Грыжа L4-L5", "output": "Грыжа 5 мм."}
Error = Callable[..., dict[str, Any]]


def upload(gateway: Any, content: str | bytes) -> Any:
    return gateway.http.post(
        "/v1/files", files={"file": ("Иванов.jsonl", content)}, data={"purpose": "fine-tune"}
    )


@pytest.fixture
def file_id(gateway: Any) -> str:
    response = upload(gateway, json.dumps(ROW, ensure_ascii=False))
    assert response.status_code == 200, response.text
    assert "Иванов" not in response.text
    return str(response.json()["id"])


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
        (
            json.dumps({"messages": [{"role": "user", "content": "Иванов"}]}),
            "invalid_training_file",
            "line 1",
        ),
        ("[1, 2]", "invalid_training_file", "row 1"),
    ],
)
def test_bad_training_files_are_refused_by_line(
    gateway: Any, error: Error, content: str | bytes, code: str, param: str
) -> None:
    found = error(upload(gateway, content), 400, code)
    assert found["param"] == param
    assert "Иванов" not in found["message"]
    assert gateway.http.get("/v1/files").json()["data"] == [], "nothing is half-written"


def test_a_job_is_queued_in_openais_shape(gateway: Any, file_id: str) -> None:
    body = {
        "model": BASE,
        "training_file": file_id,
        "suffix": "mri-brain",
        "seed": 7,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto", "rank": 8}}},
    }
    job = gateway.http.post("/v1/fine_tuning/jobs", json=body).json()
    assert (job["object"], job["status"], job["fine_tuned_model"]) == ("fine_tuning.job", "queued", None)
    assert (job["seed"], job["hyperparameters"]["rank"], job["hyperparameters"]["n_epochs"]) == (7, 8, 3)
    assert gateway.http.get(f"/v1/fine_tuning/jobs/{job['id']}").json() == job
    assert gateway.http.get("/v1/fine_tuning/jobs").json()["data"] == [job]
    cancelled = gateway.http.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert gateway.http.post(f"/v1/fine_tuning/jobs/{job['id']}/cancel").status_code == 409


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "gpt-4"}, 404, "model_not_found", "model"),
        ({"training_file": "file-0"}, 404, "not_found", "training_file"),
        ({"validation_file": "file-0"}, 404, "not_found", "validation_file"),
        ({"suffix": "Иванов"}, 400, "invalid_parameter", "suffix"),
        ({"hyperparameters": {"rank": 128}}, 400, "unservable_adapter", "hyperparameters.rank"),
        ({"hyperparameters": {"n_epochs": 0}}, 400, "invalid_hyperparameter", "hyperparameters.n_epochs"),
        ({"hyperparameters": {"use_dora": True}}, 400, "invalid_parameter", "hyperparameters.use_dora"),
        ({"integrations": []}, 400, "invalid_parameter", "integrations"),
    ],
)
def test_bad_jobs_are_refused_at_once(
    gateway: Any, error: Error, file_id: str, change: dict[str, Any], status: int, code: str, param: str
) -> None:
    body = {"model": BASE, "training_file": file_id} | change
    found = error(gateway.http.post("/v1/fine_tuning/jobs", json=body), status, code)
    assert found["param"] == param
    assert gateway.http.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_the_default_rank_is_one_that_is_served(gateway: Any, file_id: str) -> None:
    gateway.services.training._servers = ServersSettings.model_validate(
        {"bases": gateway.settings.servers.bases, "max_lora_rank": 16}
    )
    body = {"model": BASE, "training_file": file_id}
    hyperparameters = gateway.http.post("/v1/fine_tuning/jobs", json=body).json()["hyperparameters"]
    assert (hyperparameters["rank"], hyperparameters["alpha"]) == (16, 16)


def test_events_are_paged_from_the_newest(gateway: Any, file_id: str) -> None:
    job_id = gateway.http.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id}).json()[
        "id"
    ]
    for number in range(5):
        gateway.services.connections.jobs.add_event(job_id, f"event {number}")
    first = gateway.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=3").json()
    assert [event["message"] for event in first["data"]] == ["event 4", "event 3", "event 2"]
    assert first["has_more"]
    after = first["data"][-1]["id"]
    rest = gateway.http.get(f"/v1/fine_tuning/jobs/{job_id}/events?limit=3&after={after}").json()
    assert [event["message"] for event in rest["data"]] == ["event 1", "event 0"]
    assert not rest["has_more"]

"""What a preview refuses. What it shows is compared with the trainer in ../inference/test_gpu_sharing.py."""

import json
from collections.abc import Callable
from typing import Any

import pytest

BASE = "smollm2-135m-instruct"
ROW = {"instruction": "Опиши", "input": "Тайна", "output": "Грыжа 5 мм."}
Error = Callable[..., dict[str, Any]]


@pytest.fixture
def file_id(gateway: Any) -> str:
    files = {"file": ("x", json.dumps(ROW))}
    return str(gateway.http.post("/v1/files", files=files, data={"purpose": "fine-tune"}).json()["id"])


def test_without_its_inference_server_there_is_none(
    gateway: Any, error: Error, file_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = {"model": BASE, "training_file": file_id}
    error(gateway.http.post("/v1/fine_tuning/previews", json=asked), 503, "inference_unavailable")
    assert "Тайна" not in caplog.text


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "gpt-4"}, 404, "model_not_found", "model"),
        ({"training_file": "file-0"}, 404, "not_found", "training_file"),
        ({"rows": 21}, 400, "invalid_parameter", "rows"),
        ({"first_row": 0}, 400, "invalid_parameter", "first_row"),
        ({"first_row": True}, 400, "invalid_parameter", "first_row"),
        ({"first_row": 2}, 400, "no_such_row", "first_row"),
        ({"hyperparameters": {"max_length": 1}}, 400, "invalid_hyperparameter", "hyperparameters.max_length"),
        (
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"max_length": 1}}}},
            400,
            "invalid_hyperparameter",
            "method.supervised.hyperparameters.max_length",
        ),
        ({"messages": []}, 400, "invalid_parameter", "messages"),
    ],
)
def test_bad_previews_are_refused(
    gateway: Any, error: Error, file_id: str, change: dict[str, Any], status: int, code: str, param: str
) -> None:
    asked = {"model": BASE, "training_file": file_id} | change
    assert error(gateway.http.post("/v1/fine_tuning/previews", json=asked), status, code)["param"] == param


def test_another_tenant_s_file_is_not_shown(gateway: Any, error: Error, file_id: str) -> None:
    stranger = gateway.as_tenant(gateway.tenant[:20] + "-x")
    asked = {"model": BASE, "training_file": file_id}
    error(stranger.http.post("/v1/fine_tuning/previews", json=asked), 404, "not_found")

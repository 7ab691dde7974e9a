"""Which evaluations are taken. What one does is tested in test_gpu_busy.py and end to end."""

from collections.abc import Callable
from typing import Any

from .serving import BASE

Error = Callable[..., dict[str, Any]]


def test_an_unknown_model_is_named_by_the_field_that_has_it(gateway: Any, file_id: str, error: Error) -> None:
    body = {"dataset": file_id, "split": "train", "models": [BASE, "no-such-model"]}
    refused = error(gateway.http.post("/v1/evaluations", json=body), 404, "model_not_found")
    assert refused["param"] == "models"


def test_a_model_is_evaluated_once(gateway: Any, file_id: str, error: Error) -> None:
    body = {"dataset": file_id, "split": "train", "models": [BASE, BASE]}
    refused = error(gateway.http.post("/v1/evaluations", json=body), 400, "duplicate_model")
    assert (refused["param"], refused["message"]) == ("models", f"{BASE} is named 2 times")
    assert gateway.http.get("/v1/evaluations").json()["data"] == []

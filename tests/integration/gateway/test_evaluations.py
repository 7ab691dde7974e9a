"""Which evaluations are taken, what is shown of them, how they are deleted.

What one does is tested in test_gpu_busy.py and end to end.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from narrowcast.artifacts import publish
from narrowcast.errors import Unavailable
from narrowcast.jobs.records import JobStatus, LeaseLost
from narrowcast.storage import Bucket
from narrowcast_gateway.evaluation import job as evaluation_job
from narrowcast_gateway.evaluation import service
from narrowcast_gateway.evaluation.schemas import EvaluationManifest
from narrowcast_gateway.evaluation.service import PREDICTIONS, evaluation_prefix
from narrowcast_gateway.training.served import UNKNOWN, Served

from .serving import BASE

Error = Callable[..., dict[str, Any]]
TEXT = "Грыжа 5 мм."


@pytest.fixture
def body(file_id: str) -> dict[str, Any]:
    return {"dataset": file_id, "split": "train", "models": [BASE]}


@pytest.fixture
def queued(gateway: Any, body: dict[str, Any]) -> str:
    return str(gateway.http.post("/v1/evaluations", json=body).json()["id"])


def _leave_predictions(gateway: Any, evaluation_id: str) -> None:
    manifest = EvaluationManifest(
        id=evaluation_id, tenant=gateway.tenant, dataset="d", split="train", rows=1, tokenizer="t", results=[]
    )
    bucket = gateway.services.connections.storage.data
    prefix = evaluation_prefix(gateway.tenant, evaluation_id)
    publish(bucket, prefix, {PREDICTIONS: TEXT.encode()}, manifest)


@pytest.fixture
def finished(gateway: Any, queued: str) -> str:
    """An evaluation that a worker has done."""
    jobs = gateway.services.connections.jobs
    jobs.claim(queued, "worker")
    _leave_predictions(gateway, queued)
    jobs.finish(queued, "worker", JobStatus.SUCCEEDED, result={"rows": 1, "tokenizer": "t", "results": []})
    return queued


def test_an_unknown_model_is_named_by_the_field_that_has_it(gateway: Any, file_id: str, error: Error) -> None:
    body = {"dataset": file_id, "split": "train", "models": [BASE, "no-such-model"]}
    refused = error(gateway.http.post("/v1/evaluations", json=body), 404, "model_not_found")
    assert refused["param"] == "models"


def test_a_model_is_evaluated_once(gateway: Any, file_id: str, error: Error) -> None:
    body = {"dataset": file_id, "split": "train", "models": [BASE, BASE]}
    refused = error(gateway.http.post("/v1/evaluations", json=body), 400, "duplicate_model")
    assert (refused["param"], refused["message"]) == ("models", f"{BASE} is named 2 times")
    assert gateway.http.get("/v1/evaluations").json()["data"] == []


def test_predictions_that_there_are_not_yet(gateway: Any, error: Error, queued: str) -> None:
    jobs = gateway.services.connections.jobs

    def said() -> str:
        response = gateway.http.get(f"/v1/evaluations/{queued}/predictions")
        return str(error(response, 404, "no_predictions")["message"])

    assert said() == f"evaluation {queued} has no predictions: its status is queued"
    jobs.claim(queued, "worker")
    _leave_predictions(gateway, queued)
    assert "running" in said()
    jobs.finish(queued, "worker", JobStatus.FAILED)
    assert "failed" in said(), "also where an attempt has left some"


def test_predictions_that_are_gone(gateway: Any, error: Error, finished: str) -> None:
    url = f"/v1/evaluations/{finished}/predictions"
    assert gateway.http.get(url).text == TEXT
    prefix = evaluation_prefix(gateway.tenant, finished)
    gateway.services.connections.storage.data.delete_prefix(prefix)
    assert PREDICTIONS not in error(gateway.http.get(url), 404, "no_predictions")["message"]


def test_an_archived_record_that_is_gone_is_not_named_by_its_key(
    gateway: Any, error: Error, finished: str
) -> None:
    gateway.services.connections.redis.delete(f"nc:job:{finished}")
    found = error(gateway.http.get(f"/v1/evaluations/{finished}"), 404, "not_found")
    assert gateway.tenant not in found["message"]


def test_an_evaluation_is_deleted_with_its_texts(gateway: Any, error: Error, finished: str) -> None:
    url = f"/v1/evaluations/{finished}"
    stranger = gateway.as_tenant(gateway.tenant[:20] + "-x")
    error(stranger.http.delete(url), 404, "not_found")
    assert gateway.http.get(f"{url}/predictions").text == TEXT
    assert gateway.http.delete(url).json() == {"id": finished, "object": "evaluation", "deleted": True}
    for path in (url, f"{url}/predictions"):
        error(gateway.http.get(path), 404, "not_found")
    error(gateway.http.delete(url), 404, "not_found")
    assert gateway.http.get("/v1/evaluations").json()["data"] == []
    data = gateway.services.connections.storage.data
    assert list(data.keys(evaluation_prefix(gateway.tenant, finished))) == []


def test_only_an_ended_evaluation_is_deleted(gateway: Any, error: Error, queued: str) -> None:
    url = f"/v1/evaluations/{queued}"
    assert queued in error(gateway.http.delete(url), 409, "job_not_ended")["message"]
    assert gateway.http.post(f"{url}/cancel").status_code == 200
    assert gateway.http.delete(url).status_code == 200
    error(gateway.http.get(url), 404, "not_found")


@pytest.mark.parametrize("failing", ["delete", "delete_prefix"])
def test_a_deletion_that_the_object_store_breaks_off_is_repeated(
    gateway: Any, error: Error, finished: str, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    url = f"/v1/evaluations/{finished}"

    def fail(*_: object) -> None:
        raise Unavailable("no answer", code="storage_unavailable")

    with monkeypatch.context() as away:
        away.setattr(Bucket, failing, fail)
        error(gateway.http.delete(url), 503, "storage_unavailable")
    assert gateway.http.get(url).status_code == 200, "what is not all gone is still to be seen"
    assert gateway.http.delete(url).status_code == 200
    data = gateway.services.connections.storage.data
    assert list(data.keys(evaluation_prefix(gateway.tenant, finished))) == []


def test_what_a_lost_worker_publishes_of_a_deleted_one_goes_as_well(
    gateway: Any, queued: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = gateway.services.connections.jobs
    running: Any = SimpleNamespace(job=jobs.get(queued), check=lambda: None, progress=lambda **_: None)

    def publish_late(*arguments: Any) -> None:
        gateway.http.post(f"/v1/evaluations/{queued}/cancel")
        gateway.http.delete(f"/v1/evaluations/{queued}")
        publish(*arguments)

    monkeypatch.setattr(evaluation_job, "publish", publish_late)
    monkeypatch.setattr(evaluation_job._Contest, "add_model", lambda *_: None)
    with pytest.raises(LeaseLost):
        evaluation_job.evaluate(running, gateway.services, gateway.settings)
    data = gateway.services.connections.storage.data
    assert list(data.keys(evaluation_prefix(gateway.tenant, queued))) == []


@pytest.mark.parametrize("max_tokens", [2048, 2049, 10**30])
def test_answers_longer_than_what_is_served_are_refused(
    gateway: Any, error: Error, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch, max_tokens: int
) -> None:
    monkeypatch.setattr(service, "ask_served", lambda _url: Served(("abc",), 2048))
    refused = gateway.http.post("/v1/evaluations", json=body | {"max_tokens": max_tokens})
    found = error(refused, 400, "max_tokens_not_served")
    assert found["param"] == "max_tokens"
    assert "2048" in found["message"]
    assert gateway.http.get("/v1/evaluations").json()["data"] == []
    assert gateway.http.post("/v1/evaluations", json=body | {"max_tokens": 2047}).status_code == 202
    monkeypatch.setattr(service, "ask_served", lambda _url: UNKNOWN)
    unchecked = gateway.http.post("/v1/evaluations", json=body | {"max_tokens": max_tokens})
    assert unchecked.status_code == 202, "a server that is down keeps nobody from submitting"


@pytest.mark.parametrize("name", ["max_rows", "max_tokens"])
def test_true_is_no_number(gateway: Any, error: Error, body: dict[str, Any], name: str) -> None:
    refused = gateway.http.post("/v1/evaluations", json=body | {name: True})
    assert error(refused, 400, "invalid_parameter")["param"] == name

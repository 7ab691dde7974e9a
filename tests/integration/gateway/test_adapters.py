"""Adapters are deleted as OpenAI's clients delete a fine-tuned model."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from narrowcast.adapters import adapter_prefix
from narrowcast.cards import CARD, STEP_METRICS
from narrowcast.errors import Unavailable
from narrowcast.jobs.records import Job, JobStatus
from narrowcast.storage import Bucket
from narrowcast_gateway.app import create_app

from .serving import BASE

FILES = {CARD: b"{}", STEP_METRICS: b"step,train_loss\n1,2.5\n"}
Error = Callable[..., dict[str, Any]]
Trained = Callable[..., Job]


def _ask(http: TestClient, model: str) -> Any:
    question = {"model": model, "messages": [{"role": "user", "content": "?"}]}
    return http.post("/v1/chat/completions", json=question)


def test_a_deleted_adapter_is_gone_for_every_gateway(gateway: Any, trained: Trained, error: Error) -> None:
    import openai

    job, other = trained(FILES), trained(FILES)
    adapter, kept = job.result["adapter_id"], other.result["adapter_id"]
    with TestClient(create_app(gateway.settings), headers=gateway.http.headers) as second:
        for http in (gateway.http, second):
            assert http.get(f"/v1/models/{adapter}").status_code == 200  # they remember its manifest
        client = openai.OpenAI(
            api_key=gateway.http.headers["Authorization"].removeprefix("Bearer "),
            base_url="http://testserver/v1",
            http_client=gateway.http,
        )
        deleted = client.models.delete(adapter)
        assert (deleted.id, deleted.object, deleted.deleted) == (adapter, "model", True)
        with pytest.raises(openai.NotFoundError):
            client.models.delete(adapter)
        for http in (gateway.http, second):
            error(_ask(http, adapter), 404, "model_not_found")
            for path in (f"models/{adapter}", f"adapters/{adapter}", f"adapters/{adapter}/card"):
                error(http.get(f"/v1/{path}"), 404, "model_not_found")
            error(http.get(f"/v1/files/{job.id.replace('ftjob', 'file')}"), 404, "not_found")
            assert [one["id"] for one in http.get("/v1/adapters").json()["data"]] == [kept]
    models = gateway.services.connections.storage.models
    assert list(models.keys(adapter_prefix(gateway.tenant, adapter))) == []
    shown = gateway.http.get(f"/v1/fine_tuning/jobs/{job.id}").json()
    assert (shown["status"], shown["fine_tuned_model"]) == ("succeeded", adapter)


def test_only_one_s_own_is_deleted_and_no_base(gateway: Any, trained: Trained, error: Error) -> None:
    adapter = trained(FILES).result["adapter_id"]
    stranger = gateway.as_tenant(gateway.tenant[:20] + "-x")
    error(stranger.http.delete(f"/v1/models/{adapter}"), 404, "model_not_found")
    assert (
        error(gateway.http.delete(f"/v1/models/{BASE}"), 400, "base_model_not_deletable")["param"] == "model"
    )
    for unknown in ("none-0a", "..%2fx"):
        assert gateway.http.delete(f"/v1/models/{unknown}").status_code == 404
    assert gateway.http.get(f"/v1/models/{adapter}").status_code == 200


def test_not_while_its_job_may_publish_it_anew(gateway: Any, trained: Trained, error: Error) -> None:
    """Its worker was lost between publishing it and saying so."""
    job = trained(FILES, finished=False)
    adapter = job.spec["adapter_id"]
    assert job.id in error(gateway.http.delete(f"/v1/models/{adapter}"), 409, "job_not_ended")["message"]
    jobs = gateway.services.connections.jobs
    jobs.finish(job.id, "trainer", JobStatus.FAILED)
    jobs.forget(job.id)  # as where Redis was lost
    assert gateway.http.delete(f"/v1/models/{adapter}").status_code == 200


@pytest.mark.parametrize("failing", ["delete", "delete_prefix"])
def test_an_object_store_that_fails_leaves_nothing_to_be_served(
    gateway: Any, trained: Trained, error: Error, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Before its manifest is gone, or after."""
    adapter = trained(FILES).result["adapter_id"]

    def fail(*_: object) -> None:
        raise Unavailable("no answer", code="storage_unavailable")

    with monkeypatch.context() as away:
        away.setattr(Bucket, failing, fail)
        error(gateway.http.delete(f"/v1/models/{adapter}"), 503, "storage_unavailable")
    error(_ask(gateway.http, adapter), 404, "model_not_found")
    assert gateway.http.get("/v1/adapters").json()["data"] == []
    assert gateway.http.delete(f"/v1/models/{adapter}").status_code == 200
    models = gateway.services.connections.storage.models
    assert list(models.keys(adapter_prefix(gateway.tenant, adapter))) == []
    error(gateway.http.delete(f"/v1/models/{adapter}"), 404, "model_not_found")

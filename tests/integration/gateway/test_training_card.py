"""The card of an adapter over HTTP, and the table of steps as OpenAI's clients look for it."""

from collections.abc import Callable
from typing import Any

from narrowcast.artifacts import publish
from narrowcast.cards import (
    CARD,
    CARD_TEXT,
    LOSS_PNG,
    LOSS_SVG,
    STEP_METRICS,
    FailedCardManifest,
    failed_card_prefix,
)
from narrowcast.jobs.records import Job, JobError, JobStatus

BASE = "smollm2-135m-instruct"
FILES = {
    CARD: b'{"object": "training_card"}',
    CARD_TEXT: "# карта".encode(),
    LOSS_PNG: b"\x89PNG",
    LOSS_SVG: b"<svg/>",
    STEP_METRICS: b"step,train_loss\n1,2.5\n",
}
PATHS = {
    "card": (CARD, "application/json"),
    "card.md": (CARD_TEXT, "text/markdown; charset=utf-8"),
    "loss.png": (LOSS_PNG, "image/png"),
    "loss.svg": (LOSS_SVG, "image/svg+xml"),
}
Error = Callable[..., dict[str, Any]]


def test_each_file_has_its_type_and_is_sent_once(gateway: Any, trained: Callable[..., Job]) -> None:
    adapter = trained(FILES).result["adapter_id"]
    for path, (name, media_type) in PATHS.items():
        answer = gateway.http.get(f"/v1/adapters/{adapter}/{path}")
        assert (answer.status_code, answer.content) == (200, FILES[name])
        assert answer.headers["Content-Type"] == media_type
        assert "private" in answer.headers["Cache-Control"]
        again = gateway.http.get(
            f"/v1/adapters/{adapter}/{path}", headers={"If-None-Match": answer.headers["ETag"]}
        )
        assert (again.status_code, again.content) == (304, b"")
        changed = gateway.http.get(f"/v1/adapters/{adapter}/{path}", headers={"If-None-Match": '"other"'})
        assert changed.status_code == 200


def test_only_its_owner_sees_it(gateway: Any, trained: Callable[..., Job], error: Error) -> None:
    job = trained(FILES)
    stranger = gateway.as_tenant(gateway.tenant[:20] + "-x")
    for path in PATHS:
        error(stranger.http.get(f"/v1/adapters/{job.result['adapter_id']}/{path}"), 404, "model_not_found")
    file_id = job.id.replace("ftjob", "file")
    assert gateway.http.get(f"/v1/files/{file_id}").status_code == 200
    for path in (file_id, f"{file_id}/content"):
        error(stranger.http.get(f"/v1/files/{path}"), 404, "not_found")


def test_a_result_goes_with_its_model_and_not_alone(
    gateway: Any, trained: Callable[..., Job], error: Error
) -> None:
    job = trained(FILES)
    file_id = job.id.replace("ftjob", "file")
    stranger = gateway.as_tenant(gateway.tenant[:20] + "-x")
    error(stranger.http.delete(f"/v1/files/{file_id}"), 404, "not_found")
    refused = error(gateway.http.delete(f"/v1/files/{file_id}"), 409, "result_file_of_model")
    assert refused["message"].endswith(f"/v1/models/{job.result['adapter_id']}")
    assert gateway.http.get(f"/v1/files/{file_id}/content").status_code == 200


def test_an_adapter_without_one_has_none(gateway: Any, trained: Callable[..., Job], error: Error) -> None:
    job = trained({"adapter_config.json": b"{}"})
    for path in PATHS:
        error(gateway.http.get(f"/v1/adapters/{job.result['adapter_id']}/{path}"), 404, "no_training_card")
    shown = gateway.http.get(f"/v1/fine_tuning/jobs/{job.id}").json()
    assert (shown["result_files"], shown["training_card"]) == ([], None)
    error(gateway.http.get(f"/v1/files/{job.id.replace('ftjob', 'file')}/content"), 404, "not_found")
    for path in PATHS:
        error(gateway.http.get(f"/v1/adapters/none-0a/{path}"), 404, "model_not_found")


def test_the_job_points_to_card_and_result_file(gateway: Any, trained: Callable[..., Job]) -> None:
    import openai

    job = trained(FILES)
    client = openai.OpenAI(
        api_key=gateway.http.headers["Authorization"].removeprefix("Bearer "),
        base_url="http://testserver/v1",
        http_client=gateway.http,
    )
    shown = client.fine_tuning.jobs.retrieve(job.id)
    (result,) = shown.result_files
    described = client.files.retrieve(result)
    assert (described.purpose, described.bytes) == ("fine-tune-results", len(FILES[STEP_METRICS]))
    assert client.files.content(result).read() == FILES[STEP_METRICS]
    assert [file.id for file in client.files.list()] == [result]
    assert [file.id for file in client.files.list(purpose="fine-tune-results")] == [result]
    assert list(client.files.list(purpose="fine-tune")) == []
    card = gateway.http.get(gateway.http.get(f"/v1/fine_tuning/jobs/{job.id}").json()["training_card"])
    assert card.json()["object"] == "training_card"


def test_a_job_has_the_card_of_its_adapter_or_of_its_failure(
    gateway: Any, trained: Callable[..., Job], error: Error
) -> None:
    succeeded, failed = trained(FILES).id, trained(FILES, finished=False).id
    connections = gateway.services.connections
    data, prefix = connections.storage.data, failed_card_prefix(gateway.tenant, failed)
    for path in (*PATHS, "step_metrics.csv"):
        error(gateway.http.get(f"/v1/fine_tuning/jobs/{failed}/{path}"), 404, "no_training_card")
    publish(data, prefix, FILES, FailedCardManifest(id=failed, tenant=gateway.tenant))
    reason = JobError(code="training_diverged", message="m")
    connections.jobs.finish(failed, "trainer", JobStatus.FAILED, error=reason)
    stranger = gateway.as_tenant(gateway.tenant[:20] + "-x")
    for job in (succeeded, failed):
        for path, (name, media_type) in (
            PATHS | {"step_metrics.csv": (STEP_METRICS, "text/csv; charset=utf-8")}
        ).items():
            answer = gateway.http.get(f"/v1/fine_tuning/jobs/{job}/{path}")
            assert (answer.status_code, answer.content) == (200, FILES[name])
            assert answer.headers["Content-Type"] == media_type
            error(stranger.http.get(f"/v1/fine_tuning/jobs/{job}/{path}"), 404, "not_found")

"""Control of training jobs through HTTP, most of it with the official client: it must work unchanged."""

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import openai
import pytest

from narrowcast.adapters import checkpoint_prefix
from narrowcast.artifacts import publish
from narrowcast.checkpoints import CheckpointManifest
from narrowcast.jobs.records import JobKind, JobStatus

from .serving import BASE, Served

ROW = {"instruction": "Опиши", "input": "Грыжа L4-L5", "output": "Грыжа 5 мм."}
Error = Callable[..., dict[str, Any]]


# -- the official client ---------------------------------------------------------------------


def test_the_official_client_pauses_and_resumes(served: Served, tmp_path: Path) -> None:
    client = served.client()
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW, ensure_ascii=False))
    training_file = client.files.create(file=path, purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model=BASE, training_file=training_file)
    # The client's own list of statuses lacks it.
    assert str(client.fine_tuning.jobs.pause(job.id).status) == "paused"
    with pytest.raises(openai.ConflictError) as twice:
        client.fine_tuning.jobs.pause(job.id)
    assert twice.value.code == "already_paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    with pytest.raises(openai.ConflictError) as again:
        client.fine_tuning.jobs.resume(job.id)
    assert again.value.code == "not_paused"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    for change in (client.fine_tuning.jobs.pause, client.fine_tuning.jobs.cancel):
        with pytest.raises(openai.ConflictError) as ended:
            change(job.id)
        assert ended.value.code == "job_ended"


def test_the_official_client_pages_through_events(served: Served) -> None:
    job_id = served.submit()
    for number in range(45):
        served.jobs.add_event(job_id, f"event {number}")
    paged = [event.message for event in served.client().fine_tuning.jobs.list_events(job_id, limit=20)]
    assert paged == [f"event {number}" for number in reversed(range(45))]


def test_the_official_client_lists_checkpoints(served: Served) -> None:
    job_id = served.submit()
    models = served.connections.storage.models
    for step in (5, 10, 15):
        manifest = CheckpointManifest(
            id=f"{job_id}-{step}",
            tenant=served.tenant,
            step=step,
            seconds=1.0,
            metrics={"train_loss": 1.5} if step == 15 else {},
        )
        publish(models, checkpoint_prefix(served.tenant, job_id, step), {"optimizer.pt": b"o"}, manifest)
    models.put(checkpoint_prefix(served.tenant, job_id, 20) + "optimizer.pt", b"half of one")
    checkpoints = served.client().fine_tuning.jobs.checkpoints
    listed = list(checkpoints.list(job_id, limit=2))
    assert [one.step_number for one in listed] == [15, 10, 5]
    assert listed[0].fine_tuned_model_checkpoint == f"a-{job_id[-8:]}:ckpt-step-15"
    assert (listed[0].metrics.step, listed[0].metrics.train_loss, listed[0].metrics.valid_loss) == (
        15,
        1.5,
        None,
    )
    assert {one.fine_tuning_job_id for one in listed} == {job_id}
    with pytest.raises(openai.NotFoundError):
        checkpoints.list(job_id, after="ftjob-0")


def test_the_official_client_reads_the_stream(served: Served) -> None:
    job_id = served.submit()
    served.jobs.add_event(job_id, "first")
    served.jobs.request_cancel(job_id)
    with served.client().get(
        f"/fine_tuning/jobs/{job_id}/events?stream=true",
        cast_to=object,
        stream=True,
        stream_cls=openai.Stream[Any],
    ) as events:
        assert [event["message"] for event in events] == ["first", "the job is cancelled"]


def test_the_official_clients_filter_that_is_not_known_is_refused(served: Served) -> None:
    """Ignored, it would give every job to one who asked for a few."""
    served.submit()
    jobs = served.client().fine_tuning.jobs
    with pytest.raises(openai.BadRequestError) as refused:
        jobs.list(metadata={"team": "spine"})
    assert (refused.value.code, refused.value.param) == ("unknown_parameter", "metadata[team]")
    assert len(jobs.list(limit=5).data) == 1


# -- our part of a job -----------------------------------------------------------------------


_IN_A_MONTH = int(time.time()) + 30 * 86_400


def test_a_schedule_goes_in_and_comes_out(gateway: Any, file_id: str) -> None:
    window = {"start": "20:00:00", "end": "06:00:00", "time_zone": "Europe/Moscow"}
    body = {
        "model": BASE,
        "training_file": file_id,
        "priority": -3,
        "not_before": datetime.fromtimestamp(_IN_A_MONTH, timezone(timedelta(hours=3))).isoformat(),
        "run_window": window,
        "max_attempts": 1,
    }
    job = gateway.http.post("/v1/fine_tuning/jobs", json=body).json()
    assert (job["priority"], job["not_before"], job["max_attempts"]) == (-3, _IN_A_MONTH, 1)
    assert (job["run_window"], job["attempt"], job["requested"]) == (window, 0, None)
    assert gateway.services.connections.redis.llen("gpu") == 0, "no message before its time"
    plain = gateway.http.post("/v1/fine_tuning/jobs", json={"model": BASE, "training_file": file_id}).json()
    assert (plain["priority"], plain["not_before"], plain["run_window"]) == (0, None, None)
    unix = gateway.http.post("/v1/fine_tuning/jobs", json=body | {"not_before": _IN_A_MONTH}).json()
    assert unix["not_before"] == _IN_A_MONTH


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"priority": 11}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1000}, "max_attempts"),
        ({"not_before": "2026-01-01T00:00:00"}, "not_before"),
        ({"not_before": "9999-12-31T23:59:59Z"}, "not_before"),
        ({"not_before": -5}, "not_before"),
        ({"not_before": "tonight"}, "not_before"),
        ({"not_before": "2026"}, "not_before"),
        ({"not_before": True}, "not_before"),
        ({"priority": True}, "priority"),
        ({"max_attempts": True}, "max_attempts"),
        ({"run_window": {"start": "20:00", "end": "06:00", "time_zone": "localtime"}}, "run_window"),
        ({"run_window": {"start": "20:00", "end": "20:00", "time_zone": "Europe/Moscow"}}, "run_window"),
        (
            {"run_window": {"start": "20:00", "end": "06:00", "time_zone": "Moskau"}},
            "run_window.time_zone",
        ),
        ({"run_window": {"start": "20:00", "end": "06:00"}}, "run_window.time_zone"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(
    gateway: Any, error: Error, file_id: str, change: dict[str, Any], param: str
) -> None:
    body = {"model": BASE, "training_file": file_id} | change
    found = error(gateway.http.post("/v1/fine_tuning/jobs", json=body), 400, "invalid_parameter")
    assert found["param"] == param
    assert "Value error" not in found["message"]
    assert gateway.http.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_what_a_running_job_was_asked_for_is_shown(gateway: Any, file_id: str) -> None:
    jobs = gateway.services.connections.jobs
    body = {"model": BASE, "training_file": file_id}
    job_id = gateway.http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    jobs.claim_next(JobKind.TRAINING, "trainer")
    url = f"/v1/fine_tuning/jobs/{job_id}"
    paused = gateway.http.post(f"{url}/pause").json()
    assert (paused["status"], paused["requested"]) == ("running", "pause")
    assert gateway.http.post(f"{url}/resume").json()["error"]["code"] == "not_paused"
    cancelled = gateway.http.post(f"{url}/cancel", json={"keep_checkpoint": True}).json()
    assert (cancelled["status"], cancelled["requested"]) == ("running", "cancel")
    assert jobs.get(job_id).keep_checkpoint
    assert gateway.http.post(f"{url}/pause").json()["error"]["code"] in {"already_paused", "job_cancelling"}
    jobs.finish(job_id, "trainer", JobStatus.CANCELLED, result={"adapter_id": "kept"})
    ended = gateway.http.get(url).json()
    assert (ended["status"], ended["requested"], ended["fine_tuned_model"]) == ("cancelled", None, "kept")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("metadata%5Bteam%5D=spine", "metadata[team]"),
        ("limit=1&status=failed", "status"),
        ("Limit=1", "Limit"),
        ("=1", None),
        ("%D0%98%D0%B2%D0%B0%D0%BD%D0%BE%D0%B2=1", None),
        ("a%20b=", None),
        ("x" * 65 + "=1", None),
    ],
)
def test_a_query_parameter_that_is_not_known_is_refused(
    gateway: Any, error: Error, query: str, param: str | None
) -> None:
    found = error(gateway.http.get(f"/v1/fine_tuning/jobs?{query}"), 400, "unknown_parameter")
    assert found["param"] == param
    assert param is None or param in found["message"]
    assert "Иванов" not in found["message"]


def test_queries_are_checked_on_every_route_behind_a_key_and_on_no_other(gateway: Any, error: Error) -> None:
    for method, path in (
        ("GET", "/v1/models"),
        ("GET", "/v1/corpora"),
        ("GET", "/v1/files/file-1"),
        ("DELETE", "/v1/datasets/ds-1"),
        ("POST", "/v1/fine_tuning/jobs/ftjob-1/cancel"),
        ("GET", "/v1/fine_tuning/jobs/ftjob-1/events?stream=true"),
        ("POST", "/v1/chat/completions"),
    ):
        url = f"{path}{'&' if '?' in path else '?'}filter=x"
        assert error(gateway.http.request(method, url), 400, "unknown_parameter")["param"] == "filter"
        stranger = gateway.http.request(method, url, headers={"Authorization": "Bearer nc-wrong"})
        assert stranger.status_code == 401, "who has no key learns nothing"
    for url in ("/healthz?probe=1", "/docs?x=1", "/openapi.json?x=1"):
        assert gateway.http.get(url).status_code == 200
    assert gateway.http.get("/v1/files?purpose=fine-tune").status_code == 200


def test_a_redis_that_refuses_is_an_answer_of_its_own(gateway: Any, error: Error, file_id: str) -> None:
    redis_, body = gateway.services.connections.redis, {"model": BASE, "training_file": file_id}
    redis_.config_set("min-replicas-to-write", 1)  # as with a full disk, or without memory
    try:
        answer = gateway.http.post("/v1/fine_tuning/jobs", json=body)
    finally:
        redis_.config_set("min-replicas-to-write", 0)
    assert "refuses" in error(answer, 503, "job_store_unavailable")["message"]
    assert gateway.http.get("/v1/fine_tuning/jobs").json()["data"] == []


def test_another_tenants_job_cannot_be_controlled(gateway: Any, error: Error, file_id: str) -> None:
    body = {"model": BASE, "training_file": file_id}
    job_id = gateway.http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    stranger = gateway.as_tenant("stranger").http
    for method, path in (
        ("POST", "pause"),
        ("POST", "resume"),
        ("GET", "checkpoints"),
        ("GET", "events?stream=true"),
    ):
        error(stranger.request(method, f"/v1/fine_tuning/jobs/{job_id}/{path}"), 404, "not_found")

"""A request that arrives more than once under its Idempotency-Key makes one job."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis

from narrowcast.connections import Connections
from narrowcast.jobs.records import Job, JobStatus
from narrowcast.jobs.store import JobStore
from narrowcast_gateway.settings import GatewaySettings

from .serving import BASE, Served

Error = Callable[..., dict[str, Any]]
REPORT = (Path(__file__).parents[3] / "tools" / "samples" / "report-00001.docx").read_bytes()
KEY = {"Idempotency-Key": "0f1c0a52-6a3f-4f3e-9d0b-2f0a4c7f8a11"}
JOBS = "/v1/fine_tuning/jobs"


@pytest.fixture
def body(file_id: str) -> dict[str, Any]:
    return {"model": BASE, "training_file": file_id}


def post_corpus(gateway: Any, content: bytes = REPORT, headers: dict[str, str] = KEY, **form: str) -> Any:
    return gateway.http.post(
        "/v1/corpora", files=[("files", ("a.docx", content))], data=form, headers=headers
    )


class LosesFirstAnswer(httpx.HTTPTransport):
    """A network on which requests arrive, and the answer to the first does not."""

    requests = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        self.requests += 1
        if self.requests == 1:
            answer.read()
            raise httpx.ReadError("connection reset")
        return answer


@pytest.mark.parametrize(("headers", "jobs"), [(KEY, 1), ({}, 2)])
def test_openais_client_repeats_itself_and_one_training_is_queued(
    gateway_settings: GatewaySettings,
    connections: Connections,
    tenant: str,
    headers: dict[str, str],
    jobs: int,
) -> None:
    with Served(gateway_settings, connections, tenant) as served:
        rows = b'{"instruction": "i", "input": "x", "output": "y"}'
        with served.client() as plain:
            file = plain.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
        transport = LosesFirstAnswer()
        http = httpx.Client(transport=transport)
        with openai.OpenAI(base_url=served.url, api_key=served.key, http_client=http) as client:
            job = client.fine_tuning.jobs.create(model=BASE, training_file=file.id, extra_headers=headers)
            assert transport.requests == 2
            queued = client.fine_tuning.jobs.list().data
        assert len(queued) == jobs
        assert queued[0].id == job.id


def test_many_at_a_time_make_one_job(gateway: Any, body: dict[str, Any]) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: gateway.http.post(JOBS, json=body, headers=KEY).json()["id"], range(16))
        )
    assert len(set(answers)) == 1
    assert [job["id"] for job in gateway.http.get(JOBS).json()["data"]] == answers[:1]


def test_a_repeated_request_shows_the_job_as_it_is_by_now(gateway: Any, body: dict[str, Any]) -> None:
    job_id = gateway.http.post(JOBS, json=body, headers=KEY).json()["id"]
    gateway.http.post(f"{JOBS}/{job_id}/cancel")
    assert gateway.http.delete(f"/v1/files/{body['training_file']}").status_code == 200
    again = gateway.http.post(JOBS, json=body, headers=KEY)
    assert (again.status_code, again.json()["id"]) == (200, job_id), "not: the file is gone"
    assert again.json()["status"] == "cancelled"


def test_a_key_of_another_request_is_refused(gateway: Any, body: dict[str, Any], error: Error) -> None:
    job_id = gateway.http.post(JOBS, json=body, headers=KEY).json()["id"]
    other = gateway.http.post(JOBS, json=body | {"seed": 7}, headers=KEY)
    assert error(other, 400, "idempotency_key_reused")["param"] == "Idempotency-Key"
    assert [job["id"] for job in gateway.http.get(JOBS).json()["data"]] == [job_id]


def test_another_tenant_or_kind_of_job_has_keys_of_its_own(gateway: Any, body: dict[str, Any]) -> None:
    training = gateway.http.post(JOBS, json=body, headers=KEY).json()["id"]
    evaluation = {"dataset": body["training_file"], "split": "train", "models": [BASE]}
    assert gateway.http.post("/v1/evaluations", json=evaluation, headers=KEY).status_code == 202
    stranger = gateway.as_tenant(gateway.tenant[:20] + "-x")  # not one that another test looks into
    rows = {"file": ("rows.jsonl", '{"instruction": "i", "input": "x", "output": "y"}')}
    file_id = stranger.http.post("/v1/files", files=rows, data={"purpose": "fine-tune"}).json()["id"]
    other = stranger.http.post(JOBS, json=body | {"training_file": file_id}, headers=KEY)
    assert other.status_code == 200
    assert other.json()["id"] != training


def test_a_refused_request_uses_up_no_key(gateway: Any, body: dict[str, Any]) -> None:
    assert gateway.http.post(JOBS, json=body | {"model": "gpt-4"}, headers=KEY).status_code == 404
    assert gateway.http.post(JOBS, json=body, headers=KEY).status_code == 200


def test_after_a_deletion_the_request_is_a_new_one(gateway: Any, file_id: str) -> None:
    body = {"dataset": file_id, "split": "train", "models": [BASE]}
    first, again = (
        gateway.http.post("/v1/evaluations", json=body, headers=KEY).json()["id"] for _ in range(2)
    )
    assert first == again
    gateway.http.post(f"/v1/evaluations/{first}/cancel")
    gateway.http.delete(f"/v1/evaluations/{first}")
    assert gateway.http.post("/v1/evaluations", json=body, headers=KEY).json()["id"] != first


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_has_a_length(gateway: Any, body: dict[str, Any], error: Error, key: str) -> None:
    answer = gateway.http.post(JOBS, json=body, headers={"Idempotency-Key": key})
    assert error(answer, 400, "invalid_parameter")["param"] == "Idempotency-Key"


def test_what_a_key_says_is_stored_nowhere(
    gateway: Any, body: dict[str, Any], connections: Connections
) -> None:
    gateway.http.post(JOBS, json=body, headers={"Idempotency-Key": "Ivanov-1961"})
    stored = [str(key) for key in connections.redis.scan_iter("nc:jobs:once:*")]
    assert stored
    assert not any("Ivanov" in key or "Ivanov" in str(connections.redis.get(key)) for key in stored)
    assert all(0 < int(connections.redis.ttl(key)) <= 24 * 3600 for key in stored)  # type: ignore[arg-type]


def test_an_upload_sent_twice_is_kept_once(gateway: Any, error: Error) -> None:
    first, again = post_corpus(gateway).json(), post_corpus(gateway).json()
    assert first["id"] == again["id"]
    assert first["uploaded"] == again["uploaded"]
    bucket = gateway.services.connections.storage.documents
    assert list(bucket.folders(f"{gateway.tenant}/")) == [first["id"]]
    error(post_corpus(gateway, REPORT + b"."), 400, "idempotency_key_reused")
    error(post_corpus(gateway, seed="1"), 400, "idempotency_key_reused")
    assert gateway.run_corpus(first["id"]).status is JobStatus.SUCCEEDED


def test_uploads_that_meet_leave_one_set_of_originals(gateway: Any) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = {answer.json()["id"] for answer in pool.map(lambda _: post_corpus(gateway), range(4))}
    bucket = gateway.services.connections.storage.documents
    assert list(bucket.folders(f"{gateway.tenant}/")) == list(made)
    assert len(made) == 1
    assert gateway.run_corpus(made.pop()).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("headers", [KEY, {}])
def test_originals_stay_if_the_record_was_written_and_nobody_heard(
    gateway: Any, error: Error, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    real = JobStore.submit

    def unheard(self: JobStore, job: Job, *more: Any) -> Job:
        real(self, job, *more)
        raise redis.TimeoutError

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "submit", unheard)
        error(post_corpus(gateway, headers=headers), 503, "job_store_unavailable")
    (corpus,) = gateway.http.get("/v1/corpora").json()["data"]
    if headers:
        assert post_corpus(gateway, headers=headers).json()["id"] == corpus["id"]
    assert gateway.run_corpus(corpus["id"]).status is JobStatus.SUCCEEDED


def test_originals_go_if_no_record_was_written(
    gateway: Any, error: Error, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Job:
        raise redis.TimeoutError

    monkeypatch.setattr(JobStore, "submit", refused)
    error(post_corpus(gateway, headers={}), 503, "job_store_unavailable")
    assert not list(gateway.services.connections.storage.documents.folders(f"{gateway.tenant}/"))

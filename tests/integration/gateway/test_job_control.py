"""Control of training jobs through HTTP, most of it with the official client: it must work unchanged."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import redis
import uvicorn

from narrowcast import ids
from narrowcast.adapters import checkpoint_prefix
from narrowcast.artifacts import publish
from narrowcast.checkpoints import CheckpointManifest
from narrowcast.connections import Connections, connect
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.settings import RedisSettings
from narrowcast_gateway.app import create_app
from narrowcast_gateway.keys.service import ApiKeys
from narrowcast_gateway.settings import GatewaySettings, HttpSettings
from narrowcast_gateway.training import stream
from narrowcast_local.stack import servers

BASE = "smollm2-135m-instruct"
ROW = {"instruction": "Опиши", "input": "Грыжа L4-L5", "output": "Грыжа 5 мм."}
Error = Callable[..., dict[str, Any]]


class Served:
    """The gateway on a port of its own: what streams cannot be seen through an in-process client."""

    def __init__(self, settings: GatewaySettings, connections: Connections, tenant: str) -> None:
        self.jobs = connections.jobs
        self.connections = connections
        self.tenant = tenant
        self.port = servers.free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.key = ApiKeys(connections.redis).create(tenant)
        config = uvicorn.Config(
            create_app(settings), port=self.port, log_config=None, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> "Served":
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=self.key, max_retries=0)

    def submit(self) -> str:
        job_id = ids.new_id("ftjob")
        spec = {"base_model": BASE, "dataset": "ds-0", "adapter_id": f"a-{job_id[-8:]}"}
        self.jobs.submit(Job(id=job_id, kind=JobKind.TRAINING, tenant=self.tenant, spec=spec))
        return job_id

    def events(self, job_id: str, **more: Any) -> Iterator[tuple[str, str]]:
        """Yield (field, value) of each line as it comes."""
        headers = {"Authorization": f"Bearer {self.key}"} | more.pop("headers", {})
        url = f"{self.url}/fine_tuning/jobs/{job_id}/events"
        with httpx.stream("GET", url, params={"stream": True} | more, headers=headers, timeout=20) as answer:
            assert answer.status_code == 200, answer.read()
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                if line:
                    name, _, value = line.partition(":")
                    yield name, value.removeprefix(" ")


def messages(lines: Iterator[tuple[str, str]]) -> list[str]:
    data = [value for name, value in lines if name == "data"]
    assert data[-1] == "[DONE]"
    return [json.loads(value)["message"] for value in data[:-1]]


@pytest.fixture
def served(gateway_settings: GatewaySettings, connections: Connections, tenant: str) -> Iterator[Served]:
    with Served(gateway_settings, connections, tenant) as running:
        yield running


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


@pytest.fixture
def file_id(gateway: Any) -> str:
    files = {"file": ("rows.jsonl", json.dumps(ROW))}
    return str(gateway.http.post("/v1/files", files=files, data={"purpose": "fine-tune"}).json()["id"])


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


# -- the stream ------------------------------------------------------------------------------


def test_events_are_streamed_as_they_come_and_the_stream_ends_with_the_job(served: Served) -> None:
    job_id = served.submit()
    served.jobs.add_event(job_id, "before")
    lines = served.events(job_id)
    assert next(lines)[0] == "id"
    first = json.loads(next(lines)[1])
    assert (first["object"], first["message"]) == ("fine_tuning.job.event", "before")

    served.jobs.claim_next(JobKind.TRAINING, "trainer")
    sent = time.monotonic()
    served.jobs.add_event(job_id, "step", type="metrics", data={"step": 1, "train_loss": 2.5})
    arrived = [json.loads(value) for name, value in (next(lines) for _ in range(4)) if name == "data"]
    assert time.monotonic() - sent < 1
    assert [event["data"] for event in arrived] == [{"status": "running"}, {"step": 1, "train_loss": 2.5}]

    served.jobs.finish(job_id, "trainer", JobStatus.SUCCEEDED, result={})
    ended = time.monotonic()
    assert messages(lines) == ["the job has succeeded"]
    assert time.monotonic() - ended < 1


@pytest.mark.parametrize("how", ["header", "query"])
def test_a_lost_stream_is_taken_up_where_it_ended(served: Served, how: str) -> None:
    job_id = served.submit()
    for number in range(4):
        served.jobs.add_event(job_id, f"event {number}")
    lines = served.events(job_id)
    seen = [value for name, value in (next(lines) for _ in range(4)) if name == "id"]
    lines.close()  # type: ignore[attr-defined]
    served.jobs.request_cancel(job_id)
    rest = (
        served.events(job_id, headers={"Last-Event-ID": seen[1]})
        if how == "header"
        else served.events(job_id, after=seen[1])
    )
    assert messages(rest) == ["event 2", "event 3", "the job is cancelled"]


def test_the_events_of_an_archived_job_are_streamed_too(served: Served) -> None:
    job_id = served.submit()
    served.jobs.add_event(job_id, "one")
    served.jobs.request_cancel(job_id)
    seen = served.jobs.events(job_id, served.tenant)[0].id
    served.jobs.archive_ended()
    served.connections.redis.delete(f"nc:job:{job_id}", f"nc:job:{job_id}:events")
    assert messages(served.events(job_id)) == ["one", "the job is cancelled"]
    assert messages(served.events(job_id, after=seen)) == ["the job is cancelled"]


def test_silence_is_filled_with_comments(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_HEARTBEAT_S", 0.2)
    lines = served.events(served.submit())
    assert [next(lines) for _ in range(3)] == [("", "waiting")] * 3


def test_a_stream_waits_in_redis_and_does_not_poll_it(served: Served) -> None:
    job_id = served.submit()
    lines = served.events(job_id)
    served.jobs.add_event(job_id, "one")
    next(lines), next(lines)
    time.sleep(0.3)

    def commands() -> int:
        info: Any = served.connections.redis.info("commandstats")
        return sum(info.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("xread", "get"))

    before = commands()
    time.sleep(2)
    assert commands() == before


def test_streams_are_counted_by_tenant(
    gateway_settings: GatewaySettings, connections: Connections, tenant: str
) -> None:
    settings = gateway_settings.model_copy(update={"http": HttpSettings(max_event_streams=2)})
    with Served(settings, connections, tenant) as served:
        job_id = served.submit()
        served.jobs.add_event(job_id, "one")
        open_ = [served.events(job_id) for _ in range(2)]
        for lines in open_:
            next(lines)
        url = f"{served.url}/fine_tuning/jobs/{job_id}/events?stream=true"
        refused = httpx.get(url, headers={"Authorization": f"Bearer {served.key}"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_streams")
        assert refused.headers["Retry-After"] == "10"
        open_[0].close()  # type: ignore[attr-defined]
        deadline = time.monotonic() + 5
        while True:
            try:
                assert next(served.events(job_id))[0] == "id"
                break
            except AssertionError:
                assert time.monotonic() < deadline, "a closed stream is still counted"
                time.sleep(0.1)


def test_all_tenants_streams_together_are_limited(
    gateway_settings: GatewaySettings,
    connections: Connections,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "_MOST_OPEN", 2)
    settings = gateway_settings.model_copy(update={"http": HttpSettings(max_event_streams=2)})
    with Served(settings, connections, tenant) as served:
        job_id = served.submit()
        served.jobs.add_event(job_id, "one")
        open_ = [served.events(job_id) for _ in range(2)]
        for lines in open_:
            next(lines)
        other = ids.new_id("ftjob")
        served.jobs.submit(Job(id=other, kind=JobKind.TRAINING, tenant="another", spec={}))
        key = ApiKeys(connections.redis).create("another")
        url = f"{served.url}/fine_tuning/jobs/{other}/events?stream=true"
        refused = httpx.get(url, headers={"Authorization": f"Bearer {key}"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_streams")
        assert refused.headers["Retry-After"] == "10"
        assert str(stream._MOST_OPEN) not in refused.json()["error"]["message"], "others' streams are theirs"


async def test_each_of_many_streams_has_its_events_at_once(
    gateway_settings: GatewaySettings, connections: Connections, tenant: str
) -> None:
    """More than 100 at once, which is where redis-py's own pool ends."""
    settings = gateway_settings.model_copy(update={"http": HttpSettings(max_event_streams=200)})
    with Served(settings, connections, tenant) as served:
        job_id = served.submit()
        url = f"{served.url}/fine_tuning/jobs/{job_id}/events?stream=true"
        waiting = 0

        async def last_line() -> str:
            nonlocal waiting
            line = ""
            async with http.stream("GET", url) as answer:
                assert answer.status_code == 200
                waiting += 1
                async for line in answer.aiter_lines():
                    assert line != ": waiting", "it has no connection to Redis"
                    if line.startswith("data:"):
                        break
            return line

        headers = {"Authorization": f"Bearer {served.key}"}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=headers, timeout=30, limits=limits) as http:
            tasks = [asyncio.create_task(last_line()) for _ in range(130)]
            while waiting < len(tasks):
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0.1)
            await asyncio.sleep(1.5)
            served.jobs.add_event(job_id, "hello")
            lines = await asyncio.wait_for(asyncio.gather(*tasks), 10)
        assert len([line for line in lines if "hello" in line]) == len(tasks)


def test_what_is_no_event_is_refused(gateway: Any, error: Error, file_id: str) -> None:
    body = {"model": BASE, "training_file": file_id}
    job_id = gateway.http.post("/v1/fine_tuning/jobs", json=body).json()["id"]
    url = f"/v1/fine_tuning/jobs/{job_id}/events?stream=true&after="
    for bad in ("$", "x", "1-1-1", "0-0 BLOCK", f"{2**64}-0", f"0-{2**64}"):
        assert error(gateway.http.get(url + bad), 400, "invalid_parameter")["param"] == "after"


def test_a_stream_outlives_a_restart_of_redis(
    gateway_settings: GatewaySettings, tenant: str, tmp_path: Path, running: Any
) -> None:
    server = servers.valkey(tmp_path, servers.free_port(), "pw")
    own = RedisSettings.model_validate({"url": f"redis://:pw@127.0.0.1:{server.port}/0"})
    settings = gateway_settings.model_copy(update={"redis": own})
    connections = connect(settings)

    def ready() -> bool:
        try:
            return bool(connections.redis.ping())
        except redis.RedisError:
            return False

    with running(server.command, ready):
        up = Served(settings, connections, tenant)
        served = up.__enter__()
        job_id = served.submit()
        served.jobs.add_event(job_id, "before")
        time.sleep(1.2)  # the append-only file reaches the disk within a second
        lines = served.events(job_id)
        next(lines), next(lines)
    assert next(lines)[1] == "waiting"
    with running(server.command, ready):
        served.jobs.add_event(job_id, "after")
        served.jobs.request_cancel(job_id)
        assert messages(lines) == ["after", "the job is cancelled"]
        up.__exit__()

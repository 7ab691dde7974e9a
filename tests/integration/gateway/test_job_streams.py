"""A job's events as they come, over server-sent events."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from narrowcast import ids
from narrowcast.connections import Connections, connect
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.settings import RedisSettings
from narrowcast_gateway.keys.service import ApiKeys
from narrowcast_gateway.settings import GatewaySettings, HttpSettings
from narrowcast_gateway.training import stream
from narrowcast_local.stack import servers

from .serving import BASE, Served, messages

ROW = {"instruction": "Опиши", "input": "Грыжа L4-L5", "output": "Грыжа 5 мм."}
Error = Callable[..., dict[str, Any]]


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


@pytest.mark.parametrize(
    ("headers", "query", "param"),
    [({"Last-Event-ID": "x"}, {"after": "1-0"}, "Last-Event-ID"), ({}, {"after": "x"}, "after")],
)
def test_a_place_that_is_none_is_named_by_where_the_request_has_it(
    served: Served, headers: dict[str, str], query: dict[str, str], param: str
) -> None:
    url = f"{served.url}/fine_tuning/jobs/{served.submit()}/events"
    headers = {"Authorization": f"Bearer {served.key}"} | headers
    answer = httpx.get(url, params={"stream": "true"} | query, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


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

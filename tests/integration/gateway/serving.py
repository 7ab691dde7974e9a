"""The gateway on a port of its own: what streams cannot be seen through an in-process client."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import uvicorn

from narrowcast import ids
from narrowcast.connections import Connections
from narrowcast.jobs.records import Job, JobKind
from narrowcast_gateway.app import create_app
from narrowcast_gateway.keys.service import ApiKeys
from narrowcast_gateway.settings import GatewaySettings
from narrowcast_local.stack import servers

BASE = "smollm2-135m-instruct"


class Served:
    """A context manager; the gateway's settings, a tenant's key, its jobs."""

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

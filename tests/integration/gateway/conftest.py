"""The API in this process, on the real stores; jobs are run by the test when it wants them to."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.testclient import TestClient

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef, adapter_prefix
from narrowcast.artifacts import publish
from narrowcast.cards import CARD
from narrowcast.connections import Connections
from narrowcast.ids import new_id
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.jobs.running import run_job
from narrowcast.settings import Settings
from narrowcast.training import TrainingSpec
from narrowcast_gateway.app import create_app
from narrowcast_gateway.corpora.job import preprocess
from narrowcast_gateway.services import Services
from narrowcast_gateway.settings import GatewaySettings, ServersSettings

from .serving import BASE, Served

ROW = {"instruction": "Опиши", "input": "Грыжа L4-L5", "output": "Грыжа 5 мм."}


@dataclass(frozen=True)
class Gateway:
    """A tenant's view of the API."""

    http: TestClient
    services: Services
    settings: GatewaySettings
    tenant: str

    def as_tenant(self, tenant: str) -> "Gateway":
        key = self.services.keys.create(tenant)
        http = TestClient(self.http.app, headers={"Authorization": f"Bearer {key}"})
        return Gateway(http, self.services, self.settings, tenant)

    def run_corpus(self, corpus_id: str) -> Job:
        """Do what the CPU worker does."""
        jobs = self.services.connections.jobs
        run_job(jobs, self.settings.jobs, corpus_id, lambda running: preprocess(running, self.services))
        return jobs.get(corpus_id, kind=JobKind.PREPROCESSING)


@pytest.fixture
def gateway_settings(settings: Settings) -> GatewaySettings:
    return GatewaySettings(
        redis=settings.redis,
        storage=settings.storage,
        jobs=settings.jobs,
        servers=ServersSettings.model_validate({"bases": {BASE: "http://127.0.0.1:9"}}),
    )


@pytest.fixture
def gateway(gateway_settings: GatewaySettings, connections: Connections, tenant: str) -> Iterator[Gateway]:
    app = create_app(gateway_settings)
    with TestClient(app) as http:
        services: Services = app.state.services
        yield Gateway(http, services, gateway_settings, tenant).as_tenant(tenant)


@pytest.fixture
def error() -> Callable[..., dict[str, Any]]:
    """Check an error answer's form and return its error object."""

    def check(response: Any, status: int, code: str) -> dict[str, Any]:
        assert response.status_code == status, response.text
        found: dict[str, Any] = response.json()["error"]
        assert set(found) == {"message", "type", "param", "code"}
        assert found["code"] == code
        return found

    return check


@pytest.fixture
def served(gateway_settings: GatewaySettings, connections: Connections, tenant: str) -> Iterator[Served]:
    with Served(gateway_settings, connections, tenant) as running:
        yield running


@pytest.fixture
def file_id(gateway: Any) -> str:
    files = {"file": ("rows.jsonl", json.dumps(ROW))}
    return str(gateway.http.post("/v1/files", files=files, data={"purpose": "fine-tune"}).json()["id"])


@pytest.fixture
def trained(gateway: Any) -> Callable[..., Job]:
    """Leave what a trainer leaves: an adapter and a job that has succeeded."""

    def leave(files: dict[str, bytes], *, finished: bool = True) -> Job:
        jobs = gateway.services.connections.jobs
        spec = TrainingSpec(base_model=BASE, dataset="dataset-0", adapter_id=new_id("mri"))
        job = Job(
            id=new_id("ftjob"),
            kind=JobKind.TRAINING,
            tenant=gateway.tenant,
            spec=spec.model_dump(mode="json"),
        )
        manifest = AdapterManifest(
            id=spec.adapter_id,
            tenant=gateway.tenant,
            base=BaseModelRef(name=BASE, fingerprint="f"),
            prompt=PromptRef(template="t", hash="h", default_instruction="i"),
            rank=8,
            engine="peft",
            dataset=spec.dataset,
            job=job.id,
        )
        models = gateway.services.connections.storage.models
        publish(models, adapter_prefix(gateway.tenant, manifest.id), files, manifest)
        jobs.submit(job)
        running = jobs.claim(job.id, "trainer")
        if not finished:
            return running  # type: ignore[no-any-return]
        result = {"adapter_id": manifest.id, "training_card": CARD in files}
        return jobs.finish(job.id, "trainer", JobStatus.SUCCEEDED, result=result)  # type: ignore[no-any-return]

    return leave

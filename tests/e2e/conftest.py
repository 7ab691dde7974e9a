"""The whole system, running for real: every process of the local stack, with the small real model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from narrowcast_local.samples import Report, generate, write_docx
from narrowcast_local.stack import LocalStack

SHIPPED = Path(__file__).parents[2] / "tools" / "samples"
_START_S = 300
_GENERATED = 20


@dataclass(frozen=True)
class Site:
    """The running stack, and one tenant's clients."""

    stack: LocalStack
    http: httpx.Client
    openai: openai.OpenAI

    def as_tenant(self, tenant: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.stack.api_key(tenant)}"}
        return httpx.Client(base_url=self.stack.url, headers=headers, timeout=300)

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.stack.logs.iterdir()))


@pytest.fixture(scope="session")
def site(base_model: Path, llama_cpp: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    # Short leases and frequent checkpoints, so that a killed worker is noticed within the test.
    environment = {
        "NARROWCAST_JOBS__LEASE_S": "5",
        "NARROWCAST_JOBS__REAP_EVERY_S": "1",
        "NARROWCAST_TRAINER__CHECKPOINT_EVERY_S": "1",
        "NARROWCAST_TRAINER__LLAMA_CPP_DIR": str(llama_cpp),
    }
    folder = tmp_path_factory.mktemp("stack")
    with LocalStack(folder, models=base_model.parent, environment=environment) as stack:
        stack.wait_until("the gateway", stack.gateway_ready, _START_S)
        key = stack.api_key("radiology")
        headers = {"Authorization": f"Bearer {key}"}
        with (
            openai.OpenAI(api_key=key, base_url=f"{stack.url}/v1", timeout=300, max_retries=0) as client,
            httpx.Client(base_url=stack.url, headers=headers, timeout=300) as http,
        ):
            yield Site(stack, http, client)


@dataclass(frozen=True)
class Corpus:
    """Documents and the truth about them."""

    files: list[tuple[str, bytes]]
    reports: list[Report]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The shipped files (half .doc) and some more."""
    reports = list(generate(40 + _GENERATED))
    files = [(path.name, path.read_bytes()) for path in sorted(SHIPPED.glob("report-*.doc*"))]
    assert len(files) == 40
    path = tmp_path_factory.mktemp("corpus") / "x.docx"
    for report in reports[40:]:
        write_docx(report, path)
        files.append((f"{report.id}.docx", path.read_bytes()))
    return Corpus(files, reports)

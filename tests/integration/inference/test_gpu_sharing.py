"""Real vLLM gives its GPU up and takes it back. On a CPU all but the memory is real.

vLLM's engine is paused, empties its caches and refuses to compute; its workers only note that
there is no memory to free. That the memory is freed, and comes back as it was, needs a GPU.
"""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

pytest.importorskip("vllm")

from narrowcast.connections import Connections
from narrowcast.datasets import Row
from narrowcast.errors import InvalidInput
from narrowcast.masking import stop_ids
from narrowcast.settings import Settings
from narrowcast_gateway.app import create_app
from narrowcast_gateway.previews.service import TokenizedRow, tokenize_rows
from narrowcast_gateway.previews.tokenizer import BaseTokenizer
from narrowcast_gateway.settings import GatewaySettings, ServersSettings
from narrowcast_inference.health import is_ready
from narrowcast_trainer.data import IGNORED, tokenize

from .conftest import Publish, RunVllm

BASE = "small"
ADAPTER = "clinic/an-adapter"
DRAIN_S = 3
TTL_S = 4.0


class Server:
    def __init__(self, process: subprocess.Popen[bytes], port: int, http: httpx.Client, log: Path) -> None:
        self.process = process
        self.port = port
        self.http = http
        self.log = log

    def ask(self, model: str, tokens: int = 24, stream: bool = False) -> httpx.Response:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": "Синдром выдуманного Тестомирова"}],
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": stream,
        }
        return self.http.post("/v1/chat/completions", json=body)

    def answer(self, model: str) -> str:
        response = self.ask(model)
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["message"]["content"])

    def hold(self, holder: str, ttl_s: float = 60.0) -> int:
        return self.http.put(f"/narrowcast/gpu-lease/{holder}", json={"ttl_s": ttl_s}).status_code

    def release(self, holder: str) -> None:
        assert self.http.delete(f"/narrowcast/gpu-lease/{holder}").status_code == 204

    def fall_asleep(self, holder: str, ttl_s: float = 60.0) -> None:
        self.until(lambda: self.hold(holder, ttl_s) == 200)

    def phase(self) -> str:
        return str(self.http.get("/narrowcast/health").json()["gpu"]["phase"])

    def until(self, condition: Callable[[], bool], within_s: float = 30.0) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture(scope="module")
def server(run_vllm: RunVllm, publish_adapter: Publish) -> Iterator[Server]:
    publish_adapter(*ADAPTER.split("/"), seed=5)
    with (
        run_vllm(BASE, gpu_sharing="true", gpu_drain_s=DRAIN_S) as vllm,
        httpx.Client(base_url=f"http://127.0.0.1:{vllm.port}", timeout=120) as http,
    ):
        yield Server(vllm.process, vllm.port, http, vllm.log)


def assert_busy(response: httpx.Response) -> None:
    assert response.status_code == 503, response.text
    assert response.headers["x-narrowcast-error-code"] == "gpu_busy_training"
    assert response.headers["retry-after"] == "30"
    assert response.json()["error"]["code"] == "gpu_busy_training"


def test_it_sleeps_stays_healthy_and_answers_as_before(server: Server) -> None:
    before = {model: server.answer(model) for model in (BASE, ADAPTER)}
    assert before[BASE] != before[ADAPTER]
    server.fall_asleep("job.1", TTL_S)

    assert_busy(server.ask(BASE))
    assert_busy(server.ask(ADAPTER, stream=True))
    assert server.hold("other.1") == 409
    assert is_ready("127.0.0.1", server.port), "a sleeping server must not be restarted"
    health = server.http.get("/narrowcast/health").json()
    assert health["gpu"] == {"phase": "asleep", "holder": "job.1"}
    metrics = server.http.get("/metrics").text
    asleep = [line for line in metrics.splitlines() if "sleep_state{" in line and "weights_offloaded" in line]
    assert asleep
    assert asleep[0].endswith(" 1.0")

    # Nobody renews the lease: the trainer is taken for dead.
    server.until(lambda: server.phase() == "serving", TTL_S + 10)
    assert {model: server.answer(model) for model in (BASE, ADAPTER)} == before


def test_no_adapter_is_loaded_into_a_sleeping_engine(server: Server, publish_adapter: Publish) -> None:
    """Counting tokens needs no engine, but would load the model that it names."""
    late = "clinic/late-adapter"
    publish_adapter(*late.split("/"), seed=6)
    server.fall_asleep("job.late")
    asked = {"model": late, "messages": [{"role": "user", "content": "a"}]}
    refused = server.http.post("/tokenize", json=asked)
    assert (refused.status_code, refused.headers["x-narrowcast-error-code"]) == (404, "gpu_busy_training")
    assert server.http.post("/tokenize", json=asked | {"model": BASE}).status_code == 200
    server.release("job.late")
    server.until(lambda: server.phase() == "serving")
    assert server.http.post("/tokenize", json=asked).status_code == 200
    assert server.answer(late)


def test_requests_in_flight_end_or_are_cut_off_and_never_truncated(server: Server) -> None:
    with ThreadPoolExecutor(3) as pool:
        short = pool.submit(server.ask, ADAPTER, 8)
        long = pool.submit(server.ask, BASE, 1900)
        streamed = pool.submit(server.ask, BASE, 1900, stream=True)
        time.sleep(1)
        assert server.hold("job.2") == 202
        assert_busy(server.ask(BASE))
        server.fall_asleep("job.2")
        assert short.result().status_code == 200
        assert short.result().json()["usage"]["completion_tokens"] == 8
        assert_busy(long.result())
        with pytest.raises(httpx.RemoteProtocolError):
            streamed.result()
    server.release("job.2")
    server.until(lambda: server.phase() == "serving")
    assert server.answer(BASE)


ROWS = [
    Row(instruction="Опиши.", input="Грыжа L4-L5", output="Грыжа диска 5 мм, ёмкость сохранена."),
    Row(instruction=" Опиши ", input="Ж 🫁 <im_end>\n", output="  Лёгкие 𝛼 без\u00a0очагов.\n\n• Корни"),
    Row(instruction="Опиши.", input="Норма", output="Без особенностей. " * 60),
]


@pytest.fixture
def gateway(
    server: Server, settings: Settings, connections: Connections, tenant: str
) -> Iterator[TestClient]:
    """The API, with this server behind it."""
    bases = ServersSettings.model_validate({"bases": {BASE: f"http://127.0.0.1:{server.port}"}})
    app = create_app(GatewaySettings(redis=settings.redis, storage=settings.storage, servers=bases))
    with TestClient(app) as http:
        http.headers["Authorization"] = f"Bearer {app.state.services.keys.create(tenant)}"
        yield http


QUOTING = Row(instruction="Опиши.", input="Норма", output="Без <|im_end|> особенностей.")


async def _previewed(server: Server, max_length: int, rows: Sequence[Row] = ROWS) -> list[TokenizedRow]:
    async with httpx.AsyncClient() as http:
        tokenizer = BaseTokenizer(http, BASE, f"http://127.0.0.1:{server.port}")
        limits = await tokenizer.limits(max_length)
        return await tokenize_rows(tokenizer, list(enumerate(rows, 1)), limits, keep={1, 2, 3})


async def test_a_preview_is_what_is_trained_and_needs_no_gpu(
    server: Server, gateway: TestClient, base_model: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_model)
    limits: Any = {"stop_ids": stop_ids(tokenizer, None), "split": "train"}
    trained = tokenize(ROWS, tokenizer, max_length=2048, **limits)
    server.fall_asleep("job.preview")
    for row, example in zip(await _previewed(server, 2048), trained, strict=True):
        assert row.ids == example.input_ids
        assert row.tokens == len(row.ids)
        assert example.labels == [IGNORED] * row.mask_from + row.ids[row.mask_from :]
        assert row.fault is None

    # Both refuse the same rows for the same reasons.
    with pytest.raises(InvalidInput) as refused:
        tokenize([ROWS[0], QUOTING], tokenizer, max_length=2048, **limits)
    quoted = await _previewed(server, 2048, [ROWS[0], QUOTING])
    assert [row.fault for row in quoted] == [None, refused.value.code]
    assert refused.value.code == "special_tokens"
    with pytest.raises(InvalidInput) as refused:
        tokenize(ROWS, tokenizer, max_length=200, **limits)
    assert [row.fault for row in await _previewed(server, 200)] == [None, None, refused.value.code]
    assert "rows 3" in refused.value.message

    lines = "".join(json.dumps(row.model_dump(exclude_none=True)) + "\n" for row in ROWS)
    upload = gateway.post("/v1/files", files={"file": ("x", lines)}, data={"purpose": "fine-tune"})
    asked = {"model": BASE, "training_file": upload.json()["id"], "hyperparameters": {"max_length": 200}}
    answer = gateway.post("/v1/fine_tuning/previews", json=asked | {"whole_file": True})
    assert answer.status_code == 200, answer.text
    roomy = {"hyperparameters": {"max_length": 100_000}, "rows": 1}
    beyond = gateway.post("/v1/fine_tuning/previews", json=asked | roomy)
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (400, "max_length_not_served")
    assert_shown(answer.json(), [len(example.input_ids) for example in trained])
    text = gateway.post("/v1/fine_tuning/previews", json=asked, headers={"Accept": "text/plain"}).text
    assert "assistant\n⟦Грыжа диска 5 мм, ёмкость сохранена.<|im_end|>\n⟧" in text
    assert "REFUSED, rows_too_long" in text
    server.release("job.preview")
    server.until(lambda: server.phase() == "serving")
    assert "ёмкость" not in server.log.read_text()


def assert_shown(preview: dict[str, Any], lengths: list[int]) -> None:
    shown = preview["rows"]
    assert [row["tokens"] for row in shown] == lengths
    for row, source in zip(shown, ROWS, strict=True):
        prompt, answer = row["segments"]
        assert (prompt["trained"], answer["trained"]) == (False, True)
        assert prompt["tokens"] + answer["tokens"] == row["tokens"]
        assert answer["tokens"] == row["trained_tokens"]
        assert prompt["text"].endswith("<|im_start|>assistant\n")
        assert source.input.strip() in prompt["text"]
        assert answer["text"] == source.output.strip() + "<|im_end|>\n", "no letter is cut"
    assert [row["refused"] and row["refused"]["code"] for row in shown] == [None, None, "rows_too_long"]
    assert preview["summary"] == {
        "tokens": sum(lengths),
        "trained_tokens": sum(row["trained_tokens"] for row in shown),
        "longest_row": 3,
        "longest_row_tokens": lengths[2],
        "refused": [{"code": "rows_too_long", "count": 1, "rows": [3]}],
    }


def test_it_is_lent_again_and_can_be_stopped_asleep(server: Server) -> None:
    server.fall_asleep("job.3")
    server.release("job.3")
    server.fall_asleep("job.4")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) in {0, -signal.SIGTERM}
    assert "Тестомиров" not in server.log.read_text()

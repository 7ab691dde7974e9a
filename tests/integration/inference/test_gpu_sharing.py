"""Real vLLM gives its GPU up and takes it back. On a CPU all but the memory is real.

vLLM's engine is paused, empties its caches and refuses to compute; its workers only note that
there is no memory to free. That the memory is freed, and comes back as it was, needs a GPU.
"""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("vllm")

from narrowcast_inference.health import is_ready

from .conftest import Publish, RunVllm

pytestmark = pytest.mark.slow

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


def test_it_is_lent_again_and_can_be_stopped_asleep(server: Server) -> None:
    server.fall_asleep("job.3")
    server.release("job.3")
    server.fall_asleep("job.4")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) in {0, -signal.SIGTERM}
    assert "Тестомиров" not in server.log.read_text()

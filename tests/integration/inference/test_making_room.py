"""Real vLLM whose adapter cache has room for two: what it forgets, and may not miss."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("vllm")

from narrowcast.adapters import ADAPTER_WEIGHTS, adapter_prefix
from narrowcast.storage import Bucket

from .conftest import Publish, RunVllm, Vllm

BASE = "small"
TENANT = "clinic"


@pytest.fixture(scope="module")
def server(run_vllm: RunVllm, make_adapter: Callable[[int], Path]) -> Iterator[Vllm]:
    gib = 2.5 * (make_adapter(0) / ADAPTER_WEIGHTS).stat().st_size / 1024**3
    # One slot: whatever is asked for in turn has to be read from its folder again.
    with run_vllm(
        BASE, max_loras=1, max_cpu_loras=1, cache_max_gib=gib, cache_idle_s=0, cache_check_s=1
    ) as vllm:
        yield vllm


def body(adapter: str, tokens: int, *, stream: bool = False) -> dict[str, object]:
    return {
        "model": f"{TENANT}/{adapter}",
        "messages": [{"role": "user", "content": "Печень"}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }


def answer(server: Vllm, adapter: str) -> str:
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    response = httpx.post(url, json=body(adapter, 12), timeout=120)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def cached(server: Vllm) -> set[str]:
    return {path.name for path in (server.folder / "cache" / "adapters" / TENANT).iterdir()}


def test_forgotten_adapters_come_back_and_answer_as_before(server: Vllm, publish_adapter: Publish) -> None:
    names = [publish_adapter(TENANT, f"room-{seed}", seed=seed) for seed in (5, 1, 3)]
    first = [answer(server, name) for name in names]
    assert len(set(first)) == 3
    assert cached(server) == set(names[1:])
    for _ in range(3):
        assert [answer(server, name) for name in names] == first
        assert cached(server) == set(names[1:])


def test_what_a_request_uses_stays_and_a_client_that_leaves_lets_go_of_it(
    server: Vllm, publish_adapter: Publish
) -> None:
    used, *others = [publish_adapter(TENANT, f"used-{seed}", seed=seed) for seed in (5, 1, 3)]
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    with httpx.stream("POST", url, json=body(used, 1500, stream=True), timeout=120) as response:
        lines = response.iter_lines()
        next(lines)
        # One slot: what is asked for meanwhile waits for its turn, its folder comes at once.
        waiting = [threading.Thread(target=answer, args=(server, name)) for name in others]
        for thread in waiting:
            thread.start()
            httpx.get(
                f"http://127.0.0.1:{server.port}/narrowcast/adapters/{TENANT}/{others[0]}", timeout=60
            ).raise_for_status()
        httpx.get(
            f"http://127.0.0.1:{server.port}/narrowcast/adapters/{TENANT}/{others[1]}", timeout=60
        ).raise_for_status()
        assert used in cached(server)
        assert next(line for line in lines if line.startswith("data: {"))
    for thread in waiting:
        thread.join(120)
    answer(server, "room-5")
    answer(server, "room-1")
    assert used not in cached(server)
    assert answer(server, used) == answer(server, "room-5"), "the same weights under another name"
    assert server.process.poll() is None


def test_a_deleted_adapter_leaves_a_vllm_that_runs(
    server: Vllm, publish_adapter: Publish, models: Bucket
) -> None:
    deleted = publish_adapter(TENANT, "deleted-adapter", seed=1)
    assert answer(server, deleted)
    models.delete_prefix(adapter_prefix(TENANT, deleted))
    deadline = time.monotonic() + 30
    while deleted in cached(server):
        assert time.monotonic() < deadline, server.log.read_text()[-2000:]
        time.sleep(0.2)
    url = f"http://127.0.0.1:{server.port}/v1"
    assert deleted not in httpx.get(f"{url}/models", timeout=30).text
    response = httpx.post(f"{url}/chat/completions", json=body(deleted, 1), timeout=60)
    assert response.status_code == 404

"""What a real trainer shows while it trains."""

import math
import time
from collections.abc import Callable

import httpx
import pytest

from narrowcast_local.stack.servers import free_port

from .conftest import TOY, Desk, Worker, rows

_WAIT_S = 60


def test_a_training_is_seen_from_outside(
    desk: Desk, start_worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("NARROWCAST_METRICS__PORT", str(port))

    def metrics() -> dict[str, float]:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    job = desk.submit(desk.dataset(rows(16), rows(3, start=100)), hyper={"n_epochs": 12})
    worker = start_worker()
    desk.wait_for_event(job.id, "checkpoint at step")
    deadline = time.monotonic() + _WAIT_S
    while not (shown := metrics()).get('narrowcast_training_loss{split="train"}'):
        assert time.monotonic() < deadline, shown
        time.sleep(0.05)
    assert shown["narrowcast_training_running"] == 1
    assert 0 < shown["narrowcast_training_step"] <= shown["narrowcast_training_planned_steps"] == 96
    assert shown["narrowcast_training_tokens_per_second"] > 0
    assert shown["narrowcast_training_checkpoints_total"] >= 1
    assert not [name for name in shown for text in (desk.tenant, job.id, TOY) if text in name]

    desk.ended(job.id)
    deadline = time.monotonic() + _WAIT_S
    while (shown := metrics())["narrowcast_training_running"]:
        assert time.monotonic() < deadline, shown
        time.sleep(0.05)
    assert math.isnan(shown["narrowcast_training_step"])
    assert shown["narrowcast_training_peak_memory_bytes"] > 0

    assert worker.terminate(20) == 0
    start_worker()
    wait = time.monotonic() + _WAIT_S
    while True:
        try:
            assert metrics()["narrowcast_training_running"] == 0
            break
        except httpx.HTTPError:
            assert time.monotonic() < wait, "the next worker did not get the port"
            time.sleep(0.1)

import asyncio
import threading
from pathlib import Path

import pytest

from narrowcast.errors import NarrowcastError, NotFound, Unavailable
from narrowcast_inference.service import AdapterService


class Cache:
    """Counts; waits for ``gate``; then raises or returns."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls = 0
        self.error = error
        self.gate = threading.Event()
        self.gate.set()

    def ensure(self, tenant: str, adapter_id: str) -> Path:
        self.calls += 1
        assert self.gate.wait(10)
        if self.error:
            raise self.error
        return Path("/adapters") / tenant / adapter_id


def service(cache: Cache, timeout_s: float = 5) -> AdapterService:
    return AdapterService(cache, timeout_s)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "gpt-4", "a/b/c", "../x", "clinic/..", "Clinic/x", "clinic/"])
async def test_names_that_cannot_be_ours_ask_nobody(name: str) -> None:
    cache = Cache()
    with pytest.raises(NotFound):
        await service(cache).locate(name)
    assert cache.calls == 0


async def test_parallel_requests_are_one_flight() -> None:
    cache = Cache()
    cache.gate.clear()
    subject = service(cache)
    waiting = [asyncio.create_task(subject.locate("clinic/one-adapter")) for _ in range(8)]
    await asyncio.sleep(0.05)
    cache.gate.set()
    assert len(set(await asyncio.gather(*waiting))) == 1
    assert cache.calls == 1


async def test_a_client_that_hangs_up_stops_nobody_else() -> None:
    cache = Cache()
    cache.gate.clear()
    subject = service(cache)
    leaves, stays = (asyncio.create_task(subject.locate("clinic/one-adapter")) for _ in range(2))
    await asyncio.sleep(0.05)
    leaves.cancel()
    cache.gate.set()
    assert await stays == Path("/adapters/clinic/one-adapter")


async def test_waiting_is_bounded_and_the_download_goes_on() -> None:
    cache = Cache()
    cache.gate.clear()
    subject = service(cache, timeout_s=0.05)
    with pytest.raises(Unavailable) as caught:
        await subject.locate("clinic/one-adapter")
    assert caught.value.code == "adapter_timeout"
    cache.gate.set()
    await asyncio.sleep(0.1)
    await subject.locate("clinic/one-adapter")
    assert cache.calls <= 2


async def test_failures_are_remembered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(NotFound("no such adapter"))
    subject = service(cache)
    for _ in range(3):
        with pytest.raises(NotFound):
            await subject.locate("clinic/one-adapter")
    assert cache.calls == 1
    cache.error = None
    monkeypatch.setattr("narrowcast_inference.service.time.monotonic", lambda: 1e12)
    await subject.locate("clinic/one-adapter")


async def test_an_unforeseen_error_gives_its_text_to_nobody() -> None:
    with pytest.raises(NarrowcastError) as caught:
        await service(Cache(RuntimeError("secret"))).locate("clinic/one-adapter")
    assert caught.value.code == "internal_error"
    assert "secret" not in caught.value.message

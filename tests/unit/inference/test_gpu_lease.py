"""The lease on the GPU, with an engine that records what it is told."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from narrowcast.errors import Conflict, Unavailable
from narrowcast_inference.gpu_lease import GpuLease, Phase
from narrowcast_inference.gpu_sharing import GpuSharingMiddleware

TTL = 0.3


class Engine:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.wake_failures = 0
        self.sleep_fails = False
        self.card_is_shared = False
        self.falls_asleep = asyncio.Event()
        self.falls_asleep.set()

    async def sleep(self, level: int = 1, mode: str = "abort") -> None:
        assert (level, mode) == (1, "abort")
        await self.falls_asleep.wait()
        if self.sleep_fails:
            raise RuntimeError("half asleep")
        self.told.append("sleep")

    async def wake_up(self, tags: list[str] | None = None) -> bool:
        assert tags is None
        if self.wake_failures:
            self.wake_failures -= 1
            self.told.append("no memory")
            raise RuntimeError("CUDA Error: out of memory")
        self.told.append("wake")
        return True

    async def collective_rpc(self, method: str, *, kwargs: dict[str, Any] | None = None) -> None:
        assert kwargs == {"level": 1}
        self.told.append(f"workers: {method}")
        if self.card_is_shared:
            raise AssertionError("Memory usage increased after sleeping.")


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def given_up() -> list[int]:
    return []


@pytest.fixture
def lease(given_up: list[int]) -> GpuLease:
    return GpuLease(drain_s=1.0, give_up=lambda: given_up.append(1), retry_s=0.05, patience_s=0.5)


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)


async def asleep(lease: GpuLease, engine: Engine, holder: str = "a", ttl_s: float = TTL) -> None:
    await until(lambda: lease.hold(engine, holder, ttl_s) is Phase.ASLEEP)


async def test_the_engine_sleeps_until_the_lease_is_given_back(lease: GpuLease, engine: Engine) -> None:
    assert lease.hold(engine, "a", 60) is Phase.PAUSING
    with pytest.raises(Unavailable) as refused, lease.admitted():
        pass
    assert refused.value.code == "gpu_busy_training"
    await until(lambda: lease.phase is Phase.ASLEEP)
    lease.release("somebody-else")
    await asyncio.sleep(0.2)
    assert (lease.phase, lease.holder, engine.told) == (Phase.ASLEEP, "a", ["sleep"])
    lease.release("a")
    await until(lambda: lease.phase is Phase.SERVING)
    assert (lease.holder, engine.told) == (None, ["sleep", "wake"])
    with lease.admitted():
        pass


async def test_a_holder_that_says_nothing_more_is_forgotten(lease: GpuLease, engine: Engine) -> None:
    await asleep(lease, engine)
    for _ in range(6):  # twice the ttl, in renewals
        await asyncio.sleep(TTL / 3)
        assert lease.hold(engine, "a", TTL) is Phase.ASLEEP
    await until(lambda: lease.phase is Phase.SERVING, TTL + 1)
    assert engine.told == ["sleep", "wake"]


async def test_of_two_holders_one_waits(lease: GpuLease, engine: Engine) -> None:
    await asleep(lease, engine, "a")
    with pytest.raises(Conflict):
        lease.hold(engine, "b", 60)
    await until(lambda: lease.phase is Phase.SERVING)  # "b" has not renewed the lease of "a"
    await asleep(lease, engine, "b")
    with pytest.raises(Conflict):
        lease.hold(engine, "a", 60)
    assert engine.told == ["sleep", "wake", "sleep"]


async def test_requests_in_flight_end_first(lease: GpuLease, engine: Engine) -> None:
    with lease.admitted() as cut:
        lease.hold(engine, "a", 60)
        await asyncio.sleep(0.3)
        assert engine.told == []
    await until(lambda: lease.phase is Phase.ASLEEP)
    assert not cut.is_set()


async def test_requests_that_last_too_long_are_cut_off(lease: GpuLease, engine: Engine) -> None:
    with lease.admitted() as cut:
        lease.hold(engine, "a", 60)
        await until(cut.is_set)
        assert engine.told == []
    await until(lambda: lease.phase is Phase.ASLEEP)


@pytest.mark.parametrize("how", ["released", "expired"])
async def test_a_lease_that_ends_before_the_requests_do_cuts_nothing_off(
    lease: GpuLease, engine: Engine, how: str
) -> None:
    with lease.admitted() as cut:
        lease.hold(engine, "a", 60 if how == "released" else 0.1)
        if how == "released":
            lease.release("a")
        await until(lambda: lease.phase is Phase.SERVING)
        assert not cut.is_set()
    assert engine.told == []


async def test_a_lease_given_back_while_the_engine_falls_asleep(lease: GpuLease, engine: Engine) -> None:
    engine.falls_asleep.clear()
    assert lease.engine_has_memory
    lease.hold(engine, "a", 60)
    await asyncio.sleep(0.1)
    # Seconds, on a GPU. An adapter that came now would be loaded when it sleeps.
    assert (lease.phase, lease.engine_has_memory) == (Phase.PAUSING, False)
    lease.release("a")
    engine.falls_asleep.set()
    await until(lambda: lease.phase is Phase.SERVING)
    assert engine.told == ["sleep", "wake"]
    assert lease.engine_has_memory


@pytest.mark.parametrize("card_is_shared", [False, True])
async def test_memory_that_is_not_free_yet_is_tried_again(
    lease: GpuLease, engine: Engine, given_up: list[int], card_is_shared: bool
) -> None:
    engine.wake_failures = 2
    engine.card_is_shared = card_is_shared  # vLLM then cannot tell what it let go of
    await asleep(lease, engine)
    lease.release("a")
    await until(lambda: lease.phase is Phase.SERVING)
    # What half of a waking took is given back each time.
    assert engine.told == ["sleep", *["no memory", "workers: sleep"] * 2, "wake"]
    assert not given_up


async def test_a_training_that_was_forgotten_too_early_is_left_alone(
    lease: GpuLease, engine: Engine, given_up: list[int]
) -> None:
    engine.wake_failures = 1
    await asleep(lease, engine)
    await until(lambda: "no memory" in engine.told)  # it said nothing for too long, but trains
    await asleep(lease, engine, "a", 60)
    await asyncio.sleep(0.7)  # longer than the patience
    assert engine.told == ["sleep", "no memory", "workers: sleep"]
    lease.release("a")
    await until(lambda: lease.phase is Phase.SERVING)
    assert not given_up


async def test_a_server_that_cannot_wake_up_ends(
    lease: GpuLease, engine: Engine, given_up: list[int]
) -> None:
    engine.wake_failures = 1000
    await asleep(lease, engine)
    lease.release("a")
    await until(lambda: bool(given_up))
    with pytest.raises(Unavailable), lease.admitted():
        pass


async def test_a_server_that_cannot_sleep_ends(lease: GpuLease, engine: Engine, given_up: list[int]) -> None:
    engine.sleep_fails = True
    lease.hold(engine, "a", 60)
    await until(lambda: bool(given_up))
    with pytest.raises(Unavailable), lease.admitted():
        pass


class Vllm:
    """An application that streams until its client is gone, as vLLM's handlers do."""

    def __init__(self, started: bool) -> None:
        self.started = started
        self.aborted = False
        self.state = type("State", (), {})()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if self.started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"some", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.aborted = True
        # FastAPI answers even then.
        if not self.started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"null", "more_body": False})


async def call(
    middleware: GpuSharingMiddleware, app: Vllm, method: str, path: str, body: bytes = b""
) -> list[Any]:
    sent: list[Any] = []
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [],
        "query_string": b"",
        "app": app,
        "server": ("127.0.0.1", 8001),
        "scheme": "http",
    }
    await middleware(scope, incoming.get, send)
    return sent


@pytest.mark.parametrize("started", [False, True])
async def test_what_is_cut_off_never_looks_like_an_answer(engine: Engine, started: bool) -> None:
    app = Vllm(started)
    app.state.engine_client = engine
    lease = GpuLease(drain_s=0.1)
    middleware = GpuSharingMiddleware(app, lease)
    request = asyncio.create_task(call(middleware, app, "POST", "/v1/chat/completions"))
    await asyncio.sleep(0.05)
    asked = await call(middleware, app, "PUT", "/narrowcast/gpu-lease/a", b'{"ttl_s": 60}')
    assert (asked[0]["status"], asked[1]["body"]) == (202, b'{"phase":"pausing"}')
    sent = await request
    assert app.aborted
    if started:  # the last chunk is missing: the web server closes the connection
        assert [message.get("more_body") for message in sent] == [None, True]
    else:
        headers = dict(sent[0]["headers"])
        assert sent[0]["status"] == 503
        assert (headers[b"x-narrowcast-error-code"], headers[b"retry-after"]) == (b"gpu_busy_training", b"30")
    await until(lambda: engine.told == ["sleep"])
    lease.release("a")


async def test_leases_over_http(engine: Engine) -> None:
    app = Vllm(started=False)
    app.state.engine_client = engine
    lease = GpuLease(drain_s=0.1)
    middleware = GpuSharingMiddleware(app, lease)

    async def status(method: str, holder: str, body: bytes = b'{"ttl_s": 60}') -> int:
        sent = await call(middleware, app, method, f"/narrowcast/gpu-lease/{holder}", body)
        return int(sent[0]["status"])

    assert await status("PUT", "a", b'{"ttl_s": 0}') == 422
    assert await status("PUT", "a", b"[") == 422
    assert await status("POST", "a") == 405
    assert lease.phase is Phase.SERVING
    assert await status("PUT", "a") == 202
    await until(lambda: lease.phase is Phase.ASLEEP)
    assert await status("PUT", "a") == 200
    assert await status("PUT", "b") == 409
    assert await status("DELETE", "a") == 204
    await until(lambda: lease.phase is Phase.SERVING)

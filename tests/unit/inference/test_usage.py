import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from narrowcast_inference.gpu_lease import GpuLease
from narrowcast_inference.usage import AdapterUsage

NAME = "clinic/one-adapter"


class Engine:
    """Notes what it is told to remove; a real one is asked in the integration tests."""

    def __init__(self, error: Exception | None = None) -> None:
        self.removed: list[int] = []
        self.error = error

    async def remove_lora(self, number: int) -> bool:
        if self.error:
            raise self.error
        self.removed.append(number)
        return True


def vllm(engine: Engine) -> Any:
    models = SimpleNamespace(lora_requests={NAME: SimpleNamespace(lora_int_id=7)})
    return SimpleNamespace(openai_serving_models=models, engine_client=engine)


@pytest.fixture
def lease() -> GpuLease:
    return GpuLease(1.0)


async def test_only_what_no_request_uses_is_forgotten(lease: GpuLease) -> None:
    usage, engine = AdapterUsage(lease), Engine()
    app = vllm(engine)
    with usage.using(NAME, app):
        with usage.using(NAME, app):
            pass
        assert not await asyncio.to_thread(usage.forget, NAME)
        assert await asyncio.to_thread(usage.forget, "clinic/never-asked-for")
    assert engine.removed == []
    assert await asyncio.to_thread(usage.forget, NAME)
    assert engine.removed == [7]
    assert app.openai_serving_models.lora_requests == {}


async def test_a_sleeping_engine_is_asked_nothing(lease: GpuLease) -> None:
    usage, engine = AdapterUsage(lease), Engine()
    app = vllm(engine)
    with usage.using("base", app):
        pass
    lease.engine_has_memory = False
    assert not await asyncio.to_thread(usage.forget, NAME)
    assert NAME in app.openai_serving_models.lora_requests


async def test_an_engine_that_fails_keeps_the_folder(lease: GpuLease) -> None:
    usage = AdapterUsage(lease)
    with usage.using("base", vllm(Engine(RuntimeError("dead")))):
        pass
    assert not await asyncio.to_thread(usage.forget, NAME)


def test_before_the_first_request_vllm_knows_none(lease: GpuLease) -> None:
    assert AdapterUsage(lease).forget(NAME)

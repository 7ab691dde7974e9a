"""How adapters' arrival is counted."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, generate_latest

from narrowcast.artifacts import MANIFEST
from narrowcast.errors import InvalidInput, NarrowcastError
from narrowcast_inference.cache import cached_adapters
from narrowcast_inference.cleaning import ADAPTERS_FOLDER
from narrowcast_inference.service import AdapterService


class Cache:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def ensure(self, tenant: str, adapter_id: str) -> Path:
        if self.error:
            raise self.error
        return Path("/adapters") / tenant / adapter_id


def loads(outcome: str) -> float:
    return REGISTRY.get_sample_value("narrowcast_adapter_loads_total", {"outcome": outcome}) or 0.0


async def locate(name: str, error: Exception | None = None) -> None:
    service = AdapterService(Cache(error), 5)  # type: ignore[arg-type]
    await asyncio.gather(*(service.locate(name) for _ in range(4)))


async def test_a_flight_is_counted_once_however_many_wait_for_it() -> None:
    before = loads("loaded")
    timed = REGISTRY.get_sample_value("narrowcast_adapter_load_duration_seconds_count") or 0.0
    await locate("clinic/one-adapter")
    assert loads("loaded") == before + 1
    assert REGISTRY.get_sample_value("narrowcast_adapter_load_duration_seconds_count") == timed + 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InvalidInput("no", code="wrong_base_model"), "wrong_base_model"),
        (RuntimeError("Тестомиров"), "internal_error"),
        (InvalidInput("no", code="Тестомиров"), "other"),
    ],
)
async def test_a_failure_is_counted_by_its_code_alone(error: Exception, outcome: str) -> None:
    before = loads(outcome)
    with pytest.raises(NarrowcastError):
        await locate("clinic/testomirov-adapter", error)
    assert loads(outcome) == before + 1
    shown = generate_latest(REGISTRY).decode()
    assert not [text for text in ("Тестомиров", "testomirov", "clinic") if text in shown]


def test_only_whole_adapters_are_in_the_cache(tmp_path: Path) -> None:
    assert cached_adapters(tmp_path) == 0
    for folder in ("clinic/one", "clinic/.two.17.partial", "other/three"):
        (tmp_path / ADAPTERS_FOLDER / folder).mkdir(parents=True)
        (tmp_path / ADAPTERS_FOLDER / folder / MANIFEST).touch()
    (tmp_path / ADAPTERS_FOLDER / "clinic" / "four").mkdir()
    assert cached_adapters(tmp_path) == 2

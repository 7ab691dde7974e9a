"""A document may have two million signs: nothing takes time by the square of them."""

import importlib
import pkgutil
import re
import time
from collections.abc import Iterator

import pytest

from narrowcast_gateway import preprocessing
from narrowcast_gateway.preprocessing.deidentification import Deidentifier

# What patterns repeat: single signs, and the pieces that lists, addresses and names are made of.
RUNS = [
    *("а", "А", "1", "a", "A", " ", "\t", ".", "-", "_", "/", "+", "@", "("),
    *("Аб-", "Аб ", "аб ", "А. ", "a.", "1.", "1-", "1 ", "1, ", ", Аб", "Aa ", "Аб^"),
    *("12.03 и ", "в 2024 и ", "больница аб ", "РКБ ", "врач ", "степени I по "),
    *("12.05, ", "объем аб ", "Врач: Ли ", "г Уфа, ", "«Аб» ", "МЦ Аб "),
]


def patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Every compiled pattern of preprocessing, by its name."""
    for info in pkgutil.walk_packages(preprocessing.__path__, preprocessing.__name__ + "."):
        for name, value in vars(importlib.import_module(info.name)).items():
            for member in _members(value):
                if isinstance(member.pattern, str):
                    yield f"{info.name}.{name}", member


def _members(value: object) -> Iterator[re.Pattern]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple):
        for member in value:
            yield from _members(member)


@pytest.mark.parametrize("run", RUNS)
def test_no_pattern_takes_time_by_the_square_of_a_run(run: str) -> None:
    """A document may have seventy times as many signs: of a third of a second the square makes half an hour."""
    text = run * (30_000 // len(run)) + "!"
    for name, pattern in patterns():
        started = time.process_time()
        for _ in pattern.finditer(text):
            pass
        assert time.process_time() - started < 0.3, name


@pytest.mark.parametrize("line", ["Осмотрен Иванов П.С.\n", "ОСМОТРЕН ИВАНОВ П.С.\n"])
def test_many_names_take_no_time_by_their_square(deidentifier: Deidentifier, line: str) -> None:
    def seconds(lines: int) -> float:
        started = time.process_time()
        deidentifier.redact([line * lines])
        return time.process_time() - started

    seconds(10)
    assert seconds(4000) < 12 * seconds(1000)

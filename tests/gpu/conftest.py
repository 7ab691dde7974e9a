"""For a machine with CUDA: `make test-gpu`. Each training in a process of its own, as in production,
because unsloth patches Transformers for good when it is imported."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = Path(__file__).parent / "train_once.py"
Run = Callable[..., dict[str, Any]]


def _cuda() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(item.path).parent == Path(__file__).parent]
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if not _cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=["peft", "unsloth"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine that is installed."""
    name: str = request.param
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def run(base_model: Path, tmp_path: Path) -> Run:
    """Train in a new process; return what it measured, or its reason to fail."""

    def start(engine: str, name: str = "run", **order: Any) -> dict[str, Any]:
        result = tmp_path / f"{name}.json"
        order |= {"engine": engine, "base": str(base_model), "scratch": str(tmp_path / name)}
        done = subprocess.run(
            [sys.executable, _SCRIPT, json.dumps(order), result], capture_output=True, text=True, check=False
        )
        assert result.exists(), done.stderr[-4000:]
        answer: dict[str, Any] = json.loads(result.read_text())
        return answer

    return start

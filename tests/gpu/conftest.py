"""For a machine with CUDA: `make test-gpu`. Each training in a process of its own, as in production,
because unsloth patches Transformers for good when it is imported."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from narrowcast_trainer.child import training_environment

_SCRIPT = Path(__file__).parent / "train_once.py"
_ONE_GPU = Path(__file__).parent / "one_gpu"
"""On Python's path, its ``sitecustomize`` lets ranks share a GPU."""
_THREADS = 4
Run = Callable[..., dict[str, Any]]


def _gpus() -> int:
    if find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(item.path).parent == Path(__file__).parent]
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if not _gpus():
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
    """Train in a new process; return what it measured, or its reason to fail.

    Ranks for which there are too few GPUs share one.
    """

    def start(engine: str, name: str = "run", **order: Any) -> dict[str, Any]:
        result = tmp_path / f"{name}.json"
        order |= {"engine": engine, "base": str(base_model), "scratch": str(tmp_path / name)}
        ranks = order.get("ranks", 1)
        environment = training_environment(_THREADS, ranks)
        if ranks > _gpus():
            path = os.pathsep.join([str(_ONE_GPU), *filter(None, [os.environ.get("PYTHONPATH")])])
            environment |= {"PYTHONPATH": path, "NCCL_SOCKET_IFNAME": "lo"}
        done = subprocess.run(
            [sys.executable, _SCRIPT, json.dumps(order), result],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=tmp_path,  # where unsloth writes what it compiles
        )
        assert result.exists(), done.stderr[-4000:]
        answer: dict[str, Any] = json.loads(result.read_text())
        if "failed" in answer:
            answer["said"] = (done.stdout + done.stderr)[-4000:]  # another rank's reason is only there
        return answer

    return start

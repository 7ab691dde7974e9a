"""What a package pulls in when it is imported, seen in a fresh interpreter."""

import subprocess
import sys

import pytest

ENGINES = {"torch", "transformers", "trl", "peft", "unsloth", "bitsandbytes", "vllm", "matplotlib"}
WEB = {"fastapi", "starlette", "uvicorn"}
LANGUAGE = {"slovnet", "navec", "pymorphy3"}


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("narrowcast.connections, narrowcast.adapters, narrowcast.jobs.running", ENGINES | WEB | LANGUAGE),
        ("narrowcast_gateway.app", ENGINES),
        ("narrowcast_gateway.worker", ENGINES),
        ("narrowcast_trainer.worker", ENGINES | WEB),
        ("narrowcast_trainer.estimate", ENGINES | WEB),
        ("narrowcast_inference.cache", ENGINES | WEB),
        ("narrowcast_local.stack", ENGINES | WEB),
    ],
)
def test_importing_pulls_in_nothing_it_should_not(module: str, forbidden: set[str]) -> None:
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not forbidden & set(done.stdout.split())

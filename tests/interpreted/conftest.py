"""The engines' CUDA code on a CPU: `make test-interpreted`, or in any environment with unsloth in it.

Each training in a process of its own, as in production, because unsloth patches Transformers for good
when it is imported. The bases are of two layers, with random weights.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = Path(__file__).parent / "train_interpreted.py"
AMPERE, TURING = (8, 0), (7, 5)
Run = Callable[..., list[dict[str, Any]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("unsloth") is None:
        for item in items:
            if Path(item.path).parent == Path(__file__).parent:
                item.add_marker(pytest.mark.skip(reason="no unsloth here; see `make test-interpreted`"))


@pytest.fixture(scope="session")
def small(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a base of an architecture, with the real small model's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models")

    def make(architecture: str) -> Path:
        here = folder / architecture
        if here.exists():
            return here
        config = AutoConfig.for_model(
            architecture,
            num_hidden_layers=2,
            hidden_size=128,
            intermediate_size=256,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=64,
            vocab_size=49152,
            max_position_embeddings=2048,
            bos_token_id=1,
            eos_token_id=2,
        )
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(here)
        for file in base_model.iterdir():
            if file.name.startswith(("tokenizer", "chat_template", "special", "vocab", "merges")):
                shutil.copy(file, here)
        return here

    return make


@pytest.fixture
def run(small: Callable[[str], Path], tmp_path: Path) -> Run:
    """Train in a new process; return what each training measured, or its reason to fail."""

    def start(
        engine: str,
        interpreted: tuple[int, int] | None,
        name: str = "run",
        architecture: str = "llama",
        **order: Any,
    ) -> list[dict[str, Any]]:
        result = tmp_path / f"{name}.json"
        order |= {"engine": engine, "interpreted": interpreted}
        order |= {"base": str(small(architecture)), "scratch": str(tmp_path / name)}
        done = subprocess.run(
            [sys.executable, _SCRIPT, json.dumps(order), result],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,  # unsloth writes the code that it generates here
        )
        assert result.exists(), done.stderr[-4000:]
        answers: list[dict[str, Any]] = json.loads(result.read_text())
        return answers

    return start

"""The paper's case, and a GPU to put it on."""

from typing import Any

import pytest

from narrowcast.estimates.architecture import Architecture, read_architecture
from narrowcast.estimates.history import NodeFacts


@pytest.fixture
def llama(llama_8b: dict[str, Any]) -> Architecture:
    return read_architecture(llama_8b)


@pytest.fixture
def t4() -> NodeFacts:
    return NodeFacts(
        name="Tesla T4",
        device="cuda",
        memory_bytes=15 * 1024**3,
        engine="unsloth",
        quantization="nf4",
        micro_batch_tokens=8192,
    )

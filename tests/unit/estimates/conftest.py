"""The paper's case, and a GPU to put it on."""

from typing import Any

import pytest

from narrowcast.estimates.architecture import Architecture, read_architecture
from narrowcast.estimates.history import NodeFacts

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


@pytest.fixture
def llama() -> Architecture:
    return read_architecture(LLAMA_8B)


@pytest.fixture
def t4() -> NodeFacts:
    return NodeFacts(
        name="Tesla T4",
        device="cuda",
        memory_bytes=15 * 1024**3,
        engine="unsloth",
        micro_batch_tokens=8192,
    )

"""The paper's base, a small one, and a GPU to put them on."""

from typing import Any

import pytest

from narrowcast.estimates.architecture import Architecture, read_architecture
from narrowcast.estimates.history import NodeFacts


@pytest.fixture
def llama(llama_8b: dict[str, Any]) -> Architecture:
    return read_architecture(llama_8b)


@pytest.fixture
def smollm2() -> Architecture:
    return read_architecture(
        {
            "model_type": "llama",
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        }
    )


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

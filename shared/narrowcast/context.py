"""How long a text a base model can read: neither trained nor served beyond that."""

from collections.abc import Mapping
from typing import Any, Final

_SCALED_ALREADY: Final = {
    "su",
    "longrope",
    "llama3",
    "yarn",
    "deepseek_yarn",
    "deepseek_llama_scaling",
}
"""Kinds of RoPE scaling whose ``max_position_embeddings`` is that of the scaled base, as vLLM 0.32 has it."""


def context_length(config: Mapping[str, Any]) -> int | None:
    """Return how many positions a base has, in tokens, as vLLM 0.32 works it out; None if unknown.

    Args:
        config: its ``config.json``.
    """
    text: Mapping[str, Any] = config.get("text_config") or config
    positions = text.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type"))
    factor = 1.0 if kind in _SCALED_ALREADY else rope.get("factor") or 1.0
    return int(positions * factor)

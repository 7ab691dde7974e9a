"""The README that an export has on a hub: the adapter's training card, its front matter that of the files."""

from pathlib import Path
from typing import Any, Final

from narrowcast.adapters import AdapterManifest, adapter_prefix
from narrowcast.artifacts import read_file
from narrowcast.cards import CARD_TEXT, LOSS_PNG
from narrowcast.exports import ExportFormat
from narrowcast.storage import Bucket

_LIBRARY: Final[dict[ExportFormat, str | None]] = {"merged": "transformers", "gguf": None, "lora-gguf": None}
_RELATION: Final[dict[ExportFormat, str]] = {
    "merged": "finetune",
    "gguf": "quantized",
    "lora-gguf": "adapter",
}
"""The hub's ``base_model_relation``."""
_WHAT: Final[dict[ExportFormat, str]] = {
    "merged": "The base and the adapter below, merged into one 16-bit checkpoint.",
    "gguf": "The base and the adapter below, merged and written as GGUF for llama.cpp and Ollama.",
    "lora-gguf": "The adapter below as GGUF, to be put onto a GGUF of its base.",
}


def add_hub_card(
    models: Bucket, adapter: AdapterManifest, made: ExportFormat, base_model: str | None, folder: Path
) -> None:
    """Add the adapter's card and its figure to what is about to be pushed; an adapter may have none.

    Args:
        models: where the adapter is.
        adapter: its manifest.
        made: what is pushed.
        base_model: the base's name on the hub, which would refuse many a name of ours.
        folder: what is pushed lies in it.

    Raises:
        Unavailable: the object store does not answer.
    """
    if CARD_TEXT not in adapter.files:
        return
    prefix = adapter_prefix(adapter.tenant, adapter.id)
    for name in {CARD_TEXT, LOSS_PNG} & set(adapter.files):
        (folder / name).write_bytes(read_file(models, prefix, adapter, name))
    text = (folder / CARD_TEXT).read_text(encoding="utf-8")
    (folder / CARD_TEXT).write_text(_of_files(text, made, base_model), encoding="utf-8")


def _of_files(text: str, made: ExportFormat, base_model: str | None) -> str:
    from huggingface_hub import ModelCard

    card = ModelCard(text)
    data: Any = card.data
    data.library_name = _LIBRARY[made]
    data.base_model = base_model
    data.base_model_relation = _RELATION[made] if base_model else None
    if made != "merged":
        data.tags = [tag for tag in data.tags or [] if tag != "peft"] + ["gguf"]
    card.text = f"\n{_WHAT[made]}\n\n{card.text.lstrip()}"
    return f"{card}"

"""Adapters made with PEFT on the small real model, published to a real S3 server."""

from collections.abc import Callable
from pathlib import Path

import pytest

from narrowcast import prompts
from narrowcast.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterManifest,
    BaseModelRef,
    PromptRef,
    adapter_prefix,
    base_fingerprint,
)
from narrowcast.artifacts import publish
from narrowcast.settings import StorageSettings
from narrowcast.storage import Bucket, Storage

Publish = Callable[..., str]


@pytest.fixture(scope="session")
def models(storage_settings: StorageSettings) -> Bucket:
    return Storage(storage_settings).models


@pytest.fixture(scope="session")
def fingerprint(base_model: Path) -> str:
    return base_fingerprint(base_model)


@pytest.fixture(scope="session")
def make_adapter(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Return a function that makes an adapter whose answers differ from the base's."""
    made: dict[int, Path] = {}

    def make(seed: int) -> Path:
        if seed not in made:
            made[seed] = _random_adapter(base_model, tmp_path_factory.mktemp(f"adapter-{seed}"), seed)
        return made[seed]

    return make


def _random_adapter(base_model: Path, folder: Path, seed: int) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.bfloat16)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.15)  # zero by default: no adapter at all
    adapted.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def publish_adapter(models: Bucket, make_adapter: Callable[[int], Path], fingerprint: str) -> Publish:
    """Return a function that publishes one and returns its id."""

    def published(
        tenant: str, adapter_id: str, seed: int = 0, base: str = fingerprint, config: bytes | None = None
    ) -> str:
        folder = make_adapter(seed)
        manifest = AdapterManifest(
            id=adapter_id,
            tenant=tenant,
            base=BaseModelRef(name="small", fingerprint=base),
            prompt=PromptRef(
                template=prompts.TEMPLATE_ID, hash=prompts.TEMPLATE_HASH, default_instruction="Опиши."
            ),
            rank=8,
            engine="peft",
            dataset="ds-0",
            job="ftjob-0",
        )
        files: dict[str, Path | bytes] = {
            ADAPTER_CONFIG: config or folder / ADAPTER_CONFIG,
            ADAPTER_WEIGHTS: folder / ADAPTER_WEIGHTS,
            "README.md": b"not for vLLM",
        }
        publish(models, adapter_prefix(tenant, adapter_id), files, manifest)
        return adapter_id

    return published

"""Adapters made with PEFT on the small real model, published to a real S3 server; vLLM to serve them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
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
from narrowcast_inference.health import is_ready
from narrowcast_local.stack.servers import free_port

Publish = Callable[..., str]
_START_S = 400


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


@dataclass
class Vllm:
    """A running ``python -m narrowcast_inference``."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    log: Path


RunVllm = Callable[..., AbstractContextManager[Vllm]]


@pytest.fixture(scope="session")
def run_vllm(
    storage_settings: StorageSettings, base_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunVllm:
    """Runs vLLM: ``with run_vllm(base="small", max_loras=2) as server:``, settings of the section INFERENCE."""

    @contextmanager
    def run(base: str, **settings: str | float) -> Iterator[Vllm]:
        folder, port = tmp_path_factory.mktemp("vllm"), free_port()
        section = {
            "base_model": base,
            "base_model_path": base_model,
            "cache_dir": folder / "cache",
            "port": port,
            "max_lora_rank": 16,
            **settings,
        }
        environment = {
            **os.environ,
            "NARROWCAST_STORAGE__ENDPOINT": storage_settings.endpoint,
            "NARROWCAST_STORAGE__SECRET_KEY": storage_settings.secret_key.get_secret_value(),
            **{f"NARROWCAST_INFERENCE__{name.upper()}": str(value) for name, value in section.items()},
        }
        log = folder / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "narrowcast_inference"],
                env=environment,
                stderr=stream,
                stdout=stream,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + _START_S
            while not is_ready("127.0.0.1", port):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
            yield Vllm(process, port, folder, log)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    return run

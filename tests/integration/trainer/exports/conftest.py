"""A published adapter of the toy base, and what asks for exports of it at the gateway's place."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef, adapter_prefix, base_fingerprint
from narrowcast.artifacts import fetch, publish, read_manifest
from narrowcast.cards import CARD_TEXT, LOSS_PNG
from narrowcast.exports import ExportManifest, ExportSpec, export_prefix
from narrowcast.ids import new_id
from narrowcast.jobs.records import Job, JobKind
from narrowcast.prompts import TEMPLATE_HASH, TEMPLATE_ID, instruction_for
from narrowcast_trainer.export.order import ExportOrder
from narrowcast_trainer.export.steps import run_export
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.settings import HubSettings, TrainerSettings

from ..conftest import TOY, Desk, Worker

Start = Callable[..., Worker]
INSTRUCTION = instruction_for("МРТ коленного сустава")


@pytest.fixture(scope="session")
def adapter_folder(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the toy base, as PEFT writes it, that changes every linear layer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(models_dir / TOY), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(str(folder))
    return folder


@dataclass
class Exporting:
    """What a test of exports does at the gateway's place."""

    desk: Desk
    adapter: str
    settings: TrainerSettings

    def spec(self, **changes: Any) -> ExportSpec:
        return ExportSpec.model_validate({"adapter": self.adapter, "base_model": TOY} | changes)

    def submit(self, **changes: Any) -> Job:
        job = Job(
            id=new_id(JobKind.EXPORT),
            kind=JobKind.EXPORT,
            tenant=self.desk.tenant,
            spec=self.spec(**changes).model_dump(mode="json"),
        )
        self.desk.connections.jobs.submit(job)
        return job

    def run_here(
        self, hub: HubSettings | None = None, export_id: str | None = None, **changes: Any
    ) -> dict[str, Any]:
        """Run an export in this process, as its own would."""
        order = ExportOrder(
            job_id=export_id or new_id(JobKind.EXPORT),
            tenant=self.desk.tenant,
            settings=self.settings.trainer,
            storage=self.settings.storage,
            spec=self.spec(**changes),
            hub=hub or HubSettings(),
        )
        reader, writer = os.pipe()
        try:
            return run_export(order, Reporter(writer))
        finally:
            os.close(writer)
            os.close(reader)

    def files(self, job: Job, folder: Path) -> ExportManifest:
        """Download what a job published, checksums checked."""
        models = self.desk.connections.storage.models
        prefix = export_prefix(self.desk.tenant, job.id)
        manifest = read_manifest(models, prefix, ExportManifest)
        fetch(models, prefix, manifest, folder)
        return manifest

    def keys(self, job: Job) -> list[str]:
        return list(self.desk.connections.storage.models.keys(export_prefix(self.desk.tenant, job.id)))


ADAPTER_CARD = f'''---
library_name: "peft"
base_model: "{TOY}"
tags: ["lora", "peft"]
---

# The adapter

Таблица.
'''


@pytest.fixture
def exporting(
    desk: Desk, models_dir: Path, adapter_folder: Path, trainer_settings: TrainerSettings
) -> Exporting:
    """A published adapter."""
    adapter_id = new_id("toy")
    manifest = AdapterManifest(
        id=adapter_id,
        tenant=desk.tenant,
        base=BaseModelRef(name=TOY, fingerprint=base_fingerprint(models_dir / TOY)),
        prompt=PromptRef(template=TEMPLATE_ID, hash=TEMPLATE_HASH, default_instruction=INSTRUCTION),
        rank=4,
        engine="peft",
        dataset="ds-0",
        job="ftjob-0",
    )
    names = ("adapter_config.json", "adapter_model.safetensors")
    files: dict[str, Path | bytes] = {name: adapter_folder / name for name in names}
    files |= {CARD_TEXT: ADAPTER_CARD.encode(), LOSS_PNG: b"\x89PNG"}
    publish(desk.connections.storage.models, adapter_prefix(desk.tenant, adapter_id), files, manifest)
    return Exporting(desk, adapter_id, trainer_settings)

"""Exports of adapters of the toy base: what they hold, and every way they may be cut short."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from narrowcast.artifacts import read_manifest
from narrowcast.cards import CARD_TEXT, LOSS_PNG
from narrowcast.errors import Unavailable
from narrowcast.exports import ExportManifest, export_prefix
from narrowcast.ids import new_id
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast_trainer.export import steps
from narrowcast_trainer.export.merge import merge
from narrowcast_trainer.leftovers import sweep_exports
from narrowcast_trainer.settings import HubSettings

from ..conftest import TOY, Worker
from ..hub_server import running_hub
from .conftest import INSTRUCTION, Exporting

Start = Callable[..., Worker]


def merged_by_peft(base: Path, adapter: Path) -> dict[str, Any]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged: Any = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return dict(merged.state_dict())


def test_whole_models_through_a_worker(
    exporting: Exporting,
    llama_cpp: Path,
    start_worker: Start,
    models_dir: Path,
    adapter_folder: Path,
    tmp_path: Path,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    merged = exporting.submit(format="merged")
    gguf = exporting.submit(format="gguf", quantization="q8_0")
    start_worker()
    ended = [exporting.desk.ended(job.id) for job in (merged, gguf)]
    assert [job.status for job in ended] == [JobStatus.SUCCEEDED] * 2, [job.error for job in ended]
    assert not any(exporting.settings.trainer.work_dir.iterdir())

    manifest = exporting.files(merged, tmp_path / "merged")
    assert set(ended[0].result["files"]) == set(manifest.files)
    assert manifest.base.name == TOY
    wanted = merged_by_peft(models_dir / TOY, adapter_folder)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert loaded.dtype is torch.bfloat16
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, wanted[name].to(torch.bfloat16)), name
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight, "tied, as the base's are"

    assert set(exporting.files(gguf, tmp_path / "gguf").files) == {"model-q8_0.gguf", "Modelfile"}
    assert INSTRUCTION in (tmp_path / "gguf" / "Modelfile").read_text()
    assert [event for event in exporting.desk.events(gguf.id) if event.startswith("quantising")]


def test_merging_agrees_with_peft_in_float16(models_dir: Path, adapter_folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    steps: list[str] = []
    merge(models_dir / TOY, adapter_folder, tmp_path / "merged", "f16", steps.append)
    wanted = merged_by_peft(models_dir / TOY, adapter_folder)
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float16}, "the base is in float32"
    changed = [name for name in found if "_proj." in name]
    assert len(changed) == 14, "seven linear layers in each of two"
    for name, tensor in found.items():
        assert torch.equal(tensor, wanted[name].to(tensor.dtype)), name
    assert steps == ["merging file 1 of 1"]


def test_a_base_in_several_files_is_merged_file_by_file(
    models_dir: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    base = tmp_path / "cut"
    model: Any = AutoModelForCausalLM.from_pretrained(models_dir / TOY)
    model.save_pretrained(base, max_shard_size="200KB")
    parts = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(parts) > 1
    merge(base, adapter_folder, tmp_path / "merged", "base", lambda _step: None)
    assert sorted(path.name for path in (tmp_path / "merged").glob("*.safetensors")) == parts
    wanted = merged_by_peft(models_dir / TOY, adapter_folder)
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, wanted[name].to(torch.bfloat16)), name


def wait_for_step(exporting: Exporting, job: Job, step: str) -> None:
    exporting.desk.wait(job.id, lambda job: str(job.progress.get("step", "")).startswith(step))


def export_processes(worker: Worker) -> list[psutil.Process]:
    family = psutil.Process(worker.process.pid).children(recursive=True)
    return [process for process in family if "narrowcast_trainer.export" in process.cmdline()]


def test_kill_9_of_the_process_starts_it_again(
    exporting: Exporting, llama_cpp: Path, start_worker: Start
) -> None:
    job = exporting.submit(format="lora-gguf")
    worker = start_worker()
    wait_for_step(exporting, job, "converting")
    (process,) = export_processes(worker)
    started = [process, *process.children(recursive=True)]
    process.kill()
    done = exporting.desk.ended(job.id)
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert done.attempt == 2
    assert not psutil.wait_procs(started, timeout=5)[1], "the converter died with it"


def test_kill_9_of_the_worker_leaves_it_to_another(
    exporting: Exporting, llama_cpp: Path, start_worker: Start, reaper: None, tmp_path: Path
) -> None:
    job = exporting.submit(format="lora-gguf")
    worker = start_worker()
    wait_for_step(exporting, job, "converting")
    family = psutil.Process(worker.process.pid).children(recursive=True)
    worker.kill_group()
    assert not psutil.wait_procs(family, timeout=5)[1], "nothing outlives the worker"
    assert exporting.keys(job) == []
    start_worker()
    done = exporting.desk.ended(job.id)
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 2), done.error
    assert set(exporting.files(job, tmp_path / "lora").files) == {"adapter-f16.gguf", "Modelfile"}
    modelfile = (tmp_path / "lora" / "Modelfile").read_text()
    assert f"FROM ./{TOY}.gguf\nADAPTER ./adapter-f16.gguf\n" in modelfile
    assert not any(exporting.settings.trainer.work_dir.iterdir())


def test_a_cancelled_export_leaves_nothing(
    exporting: Exporting, llama_cpp: Path, start_worker: Start
) -> None:
    job = exporting.submit(format="gguf", quantization="q4_k_m")
    start_worker()
    wait_for_step(exporting, job, "converting")
    exporting.desk.connections.jobs.request_cancel(job.id)
    assert exporting.desk.ended(job.id).status is JobStatus.CANCELLED
    assert exporting.keys(job) == []
    assert not any(exporting.settings.trainer.work_dir.iterdir())


def test_a_push_that_failed_is_repeated_without_the_export(
    exporting: Exporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = HubSettings(token=SecretStr("hf_x"), owners=("clinic",))
    export_id = new_id(JobKind.EXPORT)
    destination = {"repo_id": "clinic/reports", "base_model": "maker/toy"}
    wanted: dict[str, Any] = {"format": "merged", "push_to_hub": destination}
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    exporting.settings.trainer.storage_patience_s = 0
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.commit_status = 500
        with pytest.raises(Unavailable, match="answered 500"):
            exporting.run_here(site, export_id, **wanted)
        prefix = export_prefix(exporting.desk.tenant, export_id)
        models = exporting.desk.connections.storage.models
        made = read_manifest(models, prefix, ExportManifest)
        hub.commit_status = None
        result = exporting.run_here(site, export_id, **wanted)
    assert read_manifest(models, prefix, ExportManifest) == made, "not made again"
    assert result["hub_url"] == f"{hub.url}/clinic/reports"
    assert set(made.files) == set(result["files"])
    assert set(hub.files) == {*made.files, CARD_TEXT, LOSS_PNG}
    card = hub.files[CARD_TEXT].decode()
    for line in ("library_name: transformers", "base_model: maker/toy", "base_model_relation: finetune"):
        assert line in card
    assert card.rstrip().endswith("# The adapter\n\nТаблица.")
    assert len(hub.files["model.safetensors"]) == made.files["model.safetensors"].size


def test_an_export_that_another_attempt_has_published_meanwhile_is_not_replaced(
    exporting: Exporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_id = new_id(JobKind.EXPORT)
    published: list[ExportManifest] = []

    def overtaken(*_: Any) -> None:
        monkeypatch.setattr(steps, "merge", merge)
        exporting.run_here(export_id=export_id, format="merged")
        published.append(read())

    def read() -> ExportManifest:
        models = exporting.desk.connections.storage.models
        return read_manifest(models, export_prefix(exporting.desk.tenant, export_id), ExportManifest)

    monkeypatch.setattr(steps, "merge", overtaken)
    exporting.run_here(export_id=export_id, format="merged")
    assert [read()] == published


def test_what_exports_that_failed_have_left_is_swept(exporting: Exporting) -> None:
    connections = exporting.desk.connections
    models, jobs = connections.storage.models, connections.jobs
    failed, waiting = exporting.submit(format="merged"), exporting.submit(format="merged")
    jobs.request_cancel(failed.id)
    for job in (failed, waiting):
        models.put(export_prefix(job.tenant, job.id) + "model.safetensors", b"x")
    done = new_id(JobKind.EXPORT)  # of a Redis that was lost
    models.put(export_prefix(exporting.desk.tenant, done) + "manifest.json", b"{}")
    assert sweep_exports(jobs, models) == 1
    assert exporting.keys(failed) == []
    assert exporting.keys(waiting) != []
    assert models.exists(export_prefix(exporting.desk.tenant, done) + "manifest.json")

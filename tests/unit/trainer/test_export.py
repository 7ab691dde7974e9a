"""The small parts of exports: what goes over the wire to its process, signs of life, refused repositories."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import SecretStr, ValidationError
from safetensors.torch import load_file, save_file

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef
from narrowcast.errors import JobFailed, NarrowcastError, Outage, Unavailable
from narrowcast.exports import ExportRequest, ExportSpec, HubDestination, export_prefix
from narrowcast.jobs.records import Job, JobKind
from narrowcast.settings import JobSettings, StorageSettings
from narrowcast_trainer.export.__main__ import reason_of
from narrowcast_trainer.export.job import _tidied
from narrowcast_trainer.export.merge import merge
from narrowcast_trainer.export.order import ExportOrder
from narrowcast_trainer.export.steps import _Export
from narrowcast_trainer.export.tools import run_tool
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.settings import HubSettings, TrainingSettings


@pytest.fixture
def order(tmp_path: Path) -> ExportOrder:
    return ExportOrder(
        job_id="export-0",
        tenant="t",
        settings=TrainingSettings(work_dir=tmp_path),
        storage=StorageSettings(secret_key=SecretStr("s3-secret")),
        spec=ExportSpec(adapter="a", base_model="b"),
        hub=HubSettings(token=SecretStr("hf-secret")),
    )


def test_the_order_brings_the_secrets_and_shows_none(order: ExportOrder) -> None:
    assert "secret" not in repr(order).replace("secret_key", "")
    again = ExportOrder.model_validate_json(order.model_dump_json())
    assert again == order
    assert again.hub.token == SecretStr("hf-secret")


_PULSE = """
import subprocess, sys, time
from narrowcast_trainer.export.pulse import Pulse

work = "import time; end = time.process_time() + 1\\nwhile time.process_time() < end: pass"
Pulse(lambda: print("beat", time.monotonic() - began, flush=True), every_s=0.2).start()
began = time.monotonic()
if sys.argv[1] == "thread":
    exec(work)
if sys.argv[1] == "program":
    subprocess.run([sys.executable, "-c", work], check=True)
print("waits", time.monotonic() - began, flush=True)
time.sleep(3)
"""
"""A process that works for a while and then hangs; it prints when it beat, in seconds."""


@pytest.mark.parametrize("work", ["thread", "program", "nothing"])
def test_what_works_shows_life_and_what_hangs_does_not(work: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PULSE, work], capture_output=True, text=True, check=True, timeout=60
    )
    said = [(word, float(at)) for word, _, at in (line.partition(" ") for line in done.stdout.splitlines())]
    (hangs_from,) = (at for word, at in said if word == "waits")
    beats = [at for word, at in said if word == "beat"]
    assert bool([at for at in beats if at < hangs_from]) is (work != "nothing")
    # One may follow: for what it did last, or because a program's time is no longer counted.
    assert len([at for at in beats if at > hangs_from]) <= 2


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (MemoryError(), "out_of_memory", False),
        (OSError(28, "No space left on device"), "disk_full", True),
        (OSError(5, "Input/output error"), "export_crashed", True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk_full", True),
        (ValueError("Пациент Иванов"), "export_crashed", False),
    ],
)
def test_errors_become_reasons_without_their_text(
    error: Exception, code: str, retry: bool, tmp_path: Path
) -> None:
    reason = reason_of(error, tmp_path)
    assert (reason.code, reason.retry) == (code, retry)
    assert "Иванов" not in reason.message
    assert ("trainer's log under the job's id" in reason.message) is (code == "export_crashed")


def _failing_tool(folder: Path, said: str) -> None:
    run_tool("the converter", ["sh", "-c", 'printf "%b" "$0" >&2; exit 1', said, folder / "model"])


_PROGRESS = "\\rWriting:  42%|####      | 11.5M/27.5M [00:01<00:01, 10.1Mbyte/s]\\n"


@pytest.mark.parametrize(
    "said",
    [
        "OSError: [Errno 28] No space left on device\\n",
        "OSError: [Errno 122] Disk quota exceeded\\n",
        f"OSError: Not enough free space to write 25165824 bytes after offset 1770464\\n{_PROGRESS}",
        f"OSError: 12582912 requested and 442616 written\\n{_PROGRESS}",
        "llama_model_quantize: failed to quantize: basic_ios::clear: iostream error\\n"
        "llama_quantize: failed to quantize model from '/models/base'\\n",
    ],
)
def test_a_tool_whose_disk_is_full_is_run_again(tmp_path: Path, said: str) -> None:
    with pytest.raises(Unavailable) as failed:
        _failing_tool(tmp_path, said)
    assert failed.value.code == "disk_full"
    assert "free some space" in failed.value.message


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (f"ERROR: Model Foo is not supported\\n{_PROGRESS}", "ERROR: Model Foo is not supported"),
        (
            "llama_model_quantize: failed to quantize: tensor 'a' is not within the file bounds\\n"
            "llama_quantize: failed to quantize model from '/models/base'\\n",
            "llama_model_quantize: failed to quantize: tensor 'a' is not within the file bounds",
        ),
        (_PROGRESS, "it said nothing"),
    ],
)
def test_a_tool_that_failed_is_quoted_with_the_line_that_says_why(
    tmp_path: Path, said: str, reason: str
) -> None:
    with pytest.raises(JobFailed) as failed:
        _failing_tool(tmp_path, said)
    assert failed.value.code == "conversion_failed"
    assert failed.value.message == f"the converter of llama.cpp failed: {reason}"


def test_what_is_asked_for_is_completed_or_refused() -> None:
    assert ExportRequest(adapter="a").quantization == "q4_k_m"
    assert ExportRequest(adapter="a", format="merged").quantization is None
    with pytest.raises(ValidationError):
        ExportRequest(adapter="a", format="lora-gguf", quantization="q8_0")
    for name in (
        "owner",
        "owner/",
        "/name",
        "a/b/c",
        "owner/.name",
        "owner/name\n",
        "../name",
        "owner/na me",
        "owner/mri--reports",
        "our--hospital/reports",
        "owner/a..b",
        "owner/reports.git",
    ):
        for wrong in ({"repo_id": name}, {"repo_id": "owner/name", "base_model": name}):
            with pytest.raises(ValidationError):
                HubDestination.model_validate(wrong)
    assert HubDestination(repo_id="our-hospital/mri_reports.v1").private


def test_a_quantization_of_16_bits_is_named() -> None:
    for format_ in ("merged", "lora-gguf"):
        with pytest.raises(ValidationError) as caught:
            ExportRequest.model_validate({"adapter": "a", "format": format_, "quantization": "q8_0"})
        (error,) = caught.value.errors()
        assert error["loc"] == ("quantization",)
        assert format_ in error["msg"]


@pytest.mark.parametrize(
    ("error", "attempt", "kept"),
    [
        (Unavailable("the hub answered 500", code="hub_unavailable"), 1, True),
        (Unavailable("the hub answered 500", code="hub_unavailable"), 2, False),
        (Outage("no answer", code="storage_unavailable"), 2, True),
        (JobFailed("the hub answered 403", code="hub_refused"), 1, False),
    ],
)
def test_a_finished_export_is_kept_for_another_attempt_alone(
    error: NarrowcastError, attempt: int, kept: bool, order: ExportOrder
) -> None:
    deleted: list[str] = []
    models: Any = SimpleNamespace(delete=deleted.append, delete_prefix=deleted.append)
    job = Job(id="export-1", kind=JobKind.EXPORT, tenant="t", spec={}, attempt=attempt)
    running: Any = SimpleNamespace(job=job, is_lost=lambda: False)
    with (
        pytest.raises(type(error)),
        _tidied(running, order, models, JobSettings(max_attempts=2)),
    ):
        raise error
    prefix = export_prefix(order.tenant, order.job_id)
    assert deleted == ([] if kept else [f"{prefix}manifest.json", prefix])


def test_the_context_is_that_of_the_scaled_base(base_model: Path, order: ExportOrder, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base_model / name, base / name)
    text = {"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 2.0}}
    (base / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    manifest = AdapterManifest(
        id="a",
        tenant="t",
        base=BaseModelRef(name="b", fingerprint="0" * 64),
        prompt=PromptRef(template="t", hash="h", default_instruction="Опиши."),
        rank=4,
        engine="peft",
        dataset="ds-0",
        job="ftjob-0",
    )
    written = _Export(order, Reporter(-1))._modelfile(base, manifest)
    assert written.endswith("PARAMETER num_ctx 4096\n")
    assert written.startswith("FROM ./model-q4_k_m.gguf\n")


@pytest.mark.parametrize(("precision", "dtype"), [("f16", torch.float16), ("base", torch.bfloat16)])
def test_a_base_in_float32_is_rounded_once(tmp_path: Path, precision: Any, dtype: torch.dtype) -> None:
    """Also where the adapter leaves it alone: through bf16 to f16 it would lose three bits for nothing."""
    torch.manual_seed(0)
    weights = {f"model.{name}.weight": torch.randn(8, 8) for name in ("layers.0.q_proj", "embed_tokens")}
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    save_file(weights, base / "model.safetensors")
    (base / "config.json").write_text(json.dumps({"dtype": "float32"}))
    a, b = torch.randn(2, 8), torch.randn(8, 2)
    prefix = "base_model.model.model.layers.0.q_proj"
    save_file(
        {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}, adapter / "adapter_model.safetensors"
    )
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2}))
    merge(base, adapter, tmp_path / "merged", precision, lambda _: None)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert torch.equal(merged["model.embed_tokens.weight"], weights["model.embed_tokens.weight"].to(dtype))
    expected = (weights["model.layers.0.q_proj.weight"] + b @ a).to(dtype)
    assert torch.equal(merged["model.layers.0.q_proj.weight"], expected)

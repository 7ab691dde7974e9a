"""The small parts of exports: what goes over the wire to its process, signs of life, refused repositories."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from narrowcast.exports import ExportRequest, ExportSpec, HubDestination
from narrowcast.settings import StorageSettings
from narrowcast_trainer.export.__main__ import reason_of
from narrowcast_trainer.export.order import ExportOrder
from narrowcast_trainer.settings import HubSettings, TrainingSettings


def test_the_order_brings_the_secrets_and_shows_none() -> None:
    order = ExportOrder(
        job_id="export-0",
        tenant="t",
        settings=TrainingSettings(),
        storage=StorageSettings(secret_key=SecretStr("s3-secret")),
        spec=ExportSpec(adapter="a", base_model="b"),
        hub=HubSettings(token=SecretStr("hf-secret")),
    )
    assert "secret" not in repr(order).replace("secret_key", "")
    again = ExportOrder.model_validate_json(order.model_dump_json())
    assert again == order
    assert again.hub.token == SecretStr("hf-secret")


_PULSE = """
import subprocess, sys, time
from narrowcast_trainer.export.pulse import Pulse

work = "import time; end = time.process_time() + 1\\nwhile time.process_time() < end: pass"
Pulse(lambda: print("beat", time.monotonic() - began, flush=True), every_s=0.05).start()
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
    ):
        with pytest.raises(ValidationError):
            HubDestination(repo_id=name)
    assert HubDestination(repo_id="our-hospital/mri_reports.v1").private

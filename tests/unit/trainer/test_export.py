"""The small parts of exports: what goes over the wire to its process, signs of life, refused repositories."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from narrowcast.exports import ExportRequest, ExportSpec, HubDestination
from narrowcast.settings import StorageSettings
from narrowcast_trainer.export.__main__ import reason_of
from narrowcast_trainer.export.order import ExportOrder
from narrowcast_trainer.export.pulse import cpu_ticks
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


def test_processor_time_of_a_group_is_a_sign_of_life() -> None:
    code = "import sys; sum(range(4_000_000)); print('.', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        used = cpu_ticks(process.pid)
        assert used > 0
        assert cpu_ticks(process.pid) - used <= 1, "what waits uses none"
        process.kill()
    assert cpu_ticks(process.pid) == 0
    assert cpu_ticks(os.getpgrp()) > 0


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

"""Exports that are refused before the work."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.ids import new_id
from narrowcast.jobs.records import JobKind
from narrowcast_trainer.export import space
from narrowcast_trainer.settings import HubSettings

from ..conftest import TOY
from .conftest import Exporting


def refusal(exporting: Exporting, **changes: Any) -> JobFailed:
    with pytest.raises(JobFailed) as caught:
        exporting.run_here(**changes)
    return caught.value


def test_an_adapter_that_is_gone(exporting: Exporting, llama_cpp: Path) -> None:
    assert refusal(exporting, adapter="gone-0").code == "adapter_not_found"


def test_a_base_that_is_not_the_adapters(exporting: Exporting, models_dir: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    other = tmp_path / "other" / TOY
    shutil.copytree(models_dir / TOY, other)
    weights = {name: tensor + 1 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(
        {name: tensor.to(torch.float32) for name, tensor in weights.items()}, other / "model.safetensors"
    )
    exporting.settings.trainer.models_dir = tmp_path / "other"
    assert refusal(exporting, format="merged").code == "base_changed"


def test_a_base_that_is_stored_quantised(exporting: Exporting, models_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / TOY
    shutil.copytree(models_dir / TOY, other)
    config = json.loads((other / "config.json").read_text())
    quantized = config | {"quantization_config": {"quant_method": "fp8"}}
    (other / "config.json").write_text(json.dumps(quantized))
    exporting.settings.trainer.models_dir = tmp_path / "other"
    error = refusal(exporting, format="gguf")
    assert (error.code, "16-bit" in error.message) == ("base_not_16bit", True)


def test_a_disk_that_is_too_small(exporting: Exporting, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    # The toy has 3.2 million parameters: 6.5 MB in 16 bits, and the tokenizer's 3 MB or so.
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _path: usage._replace(free=5_000_000))
    with pytest.raises(Unavailable, match=r"0\.0 GB are free: free some space") as full:
        exporting.run_here(format="merged")
    assert full.value.code == "disk_full"


def test_no_llama_cpp(exporting: Exporting, tmp_path: Path) -> None:
    exporting.settings.trainer.llama_cpp_dir = tmp_path
    error = refusal(exporting, format="lora-gguf")
    assert error.code == "llama_cpp_missing"


@pytest.mark.parametrize("format_", ["gguf", "lora-gguf"])
def test_what_a_modelfile_cannot_hold(
    exporting: Exporting, llama_cpp: Path, models_dir: Path, tmp_path: Path, format_: str
) -> None:
    other = tmp_path / "other" / TOY
    shutil.copytree(models_dir / TOY, other)
    (other / "chat_template.jinja").write_text("{{ messages[1].content | upper }}")
    exporting.settings.trainer.models_dir = tmp_path / "other"
    export_id = new_id(JobKind.EXPORT)
    error = refusal(exporting, export_id=export_id, format=format_)
    assert error.code == "chat_template_not_portable"
    assert list((exporting.settings.trainer.work_dir / export_id).iterdir()) == [], "before the work"


@pytest.mark.parametrize(
    ("hub", "code"),
    [
        (HubSettings(), "no_hub_token"),
        (HubSettings(token=SecretStr("hf_x"), owners=("clinic",)), "hub_destination_not_allowed"),
    ],
)
def test_a_hub_that_the_site_does_not_allow(exporting: Exporting, hub: HubSettings, code: str) -> None:
    assert refusal(exporting, hub=hub, push_to_hub={"repo_id": "other/reports"}).code == code

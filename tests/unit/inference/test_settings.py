import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from narrowcast_inference.arguments import cpu_environment, vllm_arguments, vllm_environment
from narrowcast_inference.settings import InferenceSection, InferenceSettings


def section(tmp_path: Path, **changes: Any) -> InferenceSection:
    return InferenceSection.model_validate(
        {"base_model": "small", "base_model_path": tmp_path, "cache_dir": tmp_path / "cache", **changes}
    )


def test_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NARROWCAST_INFERENCE__BASE_MODEL", "small")
    monkeypatch.setenv("NARROWCAST_INFERENCE__BASE_MODEL_PATH", str(tmp_path))
    monkeypatch.setenv("NARROWCAST_INFERENCE__CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NARROWCAST_INFERENCE__CPU__KV_CACHE_GIB", "0.5")
    monkeypatch.setenv("NARROWCAST_INFERENCE__EXTRA_ARGS", '["--seed=1"]')
    read = InferenceSettings().inference
    assert read.cpu_kv_cache_bytes == 2**29
    assert read.extra_args == ("--seed=1",)


@pytest.mark.parametrize(
    "changes", [{"max_lora_rank": 63}, {"max_loras": 9, "max_cpu_loras": 8}, {"port": 0}]
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, changes: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        section(tmp_path, **changes)


def test_paths_do_not_depend_on_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert section(tmp_path, cache_dir="cache").cache_dir == tmp_path / "cache"


def test_accepted_fingerprints_never_hold_the_empty_one(tmp_path: Path) -> None:
    assert section(tmp_path).fingerprints == frozenset()
    assert section(tmp_path, base_fingerprint="a", accepted_fingerprints=("b",)).fingerprints == {"a", "b"}


def test_a_gpu_gets_no_cpu_flag(tmp_path: Path) -> None:
    on_gpu, on_cpu = (vllm_arguments(section(tmp_path), on_cpu=cpu) for cpu in (False, True))
    assert set(on_cpu) - set(on_gpu) == {
        "--dtype=bfloat16",
        f"--kv-cache-memory-bytes={2**28}",
        "--enforce-eager",
        "--max-num-seqs=8",
    }
    assert "--no-enable-log-requests" in on_gpu
    assert "--shutdown-timeout=60" in on_gpu
    assert '--default-chat-template-kwargs={"enable_thinking": false}' in on_gpu


def test_a_base_s_penalties_and_length_are_not_those_of_reports(tmp_path: Path) -> None:
    """By vLLM's own words, with a file as Qwen2.5 has it."""
    from transformers import LlamaConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    LlamaConfig(hidden_size=8, num_attention_heads=1, architectures=["LlamaForCausalLM"]).save_pretrained(
        tmp_path
    )
    own = {"repetition_penalty": 1.05, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "max_new_tokens": 512}
    (tmp_path / "generation_config.json").write_text(json.dumps(own | {"eos_token_id": [2, 5]}))
    arguments = vllm_arguments(section(tmp_path), on_cpu=True)
    (given,) = [one for one in arguments if one.startswith("--override-generation-config")]
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    parsed = parser.parse_args([f"--model={tmp_path}", "--skip-tokenizer-init", "--dtype=bfloat16", given])
    config = EngineArgs.from_cli_args(parsed).create_model_config()
    assert config.get_diff_sampling_param() == {
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
    }
    assert config.try_get_generation_config()["eos_token_id"] == [2, 5]


def test_extra_arguments_come_last(tmp_path: Path) -> None:
    arguments = vllm_arguments(section(tmp_path, extra_args=("--dtype=float32",)), on_cpu=True)
    assert arguments[-1] == "--dtype=float32"


def test_environment_of_vllm(tmp_path: Path) -> None:
    environment = vllm_environment(section(tmp_path, base_fingerprint="f"), "logging.json")
    assert environment["VLLM_PLUGINS"] == "narrowcast_s3_resolver"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"
    assert cpu_environment(section(tmp_path, cpu={"threads": 3}))["OMP_NUM_THREADS"] == "3"


def test_cards_are_counted_as_the_trainer_counts_them(tmp_path: Path) -> None:
    assert vllm_environment(section(tmp_path), "logging.json")["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_what_sleeps_pins_no_more_than_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch itself takes the setting: a name that it does not know it refuses."""
    import torch

    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    assert "PYTORCH_ALLOC_CONF" not in vllm_environment(section(tmp_path), "logging.json")
    sharing = section(tmp_path, gpu_sharing=True)
    given = vllm_environment(sharing, "logging.json")["PYTORCH_ALLOC_CONF"]
    before = torch._C._accelerator_getAllocatorSettings()
    torch._C._accelerator_setAllocatorSettings(given)
    torch._C._accelerator_setAllocatorSettings(before)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    assert "PYTORCH_ALLOC_CONF" not in vllm_environment(sharing, "logging.json"), "the site's own goes first"

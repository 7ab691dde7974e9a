"""Names, fingerprints, and what vLLM would refuse."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowcast.adapters import base_fingerprint, check_servable, parse_serving_name, serving_name
from narrowcast.errors import InvalidInput


def write_shard(folder: Path, data: bytes, name: str = "model.safetensors", **metadata: str) -> Path:
    header: dict[str, Any] = {"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}
    if metadata:
        header["__metadata__"] = metadata
    raw = json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return folder


def test_a_fingerprint_tells_weights_apart_and_ignores_metadata(tmp_path: Path) -> None:
    data = bytes(range(256)) * 1000
    one = base_fingerprint(write_shard(tmp_path / "a", data))
    assert base_fingerprint(write_shard(tmp_path / "b", data, format="pt")) == one
    changed = bytearray(data)
    changed[0] ^= 1
    assert base_fingerprint(write_shard(tmp_path / "c", bytes(changed))) != one


def test_a_folder_without_weights_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        base_fingerprint(tmp_path)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"r": 128}, "rank"),
        ({"rank_pattern": {"q_proj": 128}}, "rank"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": ["gaussian"]}, "init_lora_weights"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"use_qalora": True}, "use_qalora"),
        ({"use_bdlora": {"a": 1}}, "use_bdlora"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"rank_pattern": {"q_proj": 0}}, "rank"),
        ({"trainable_token_indices": {"embed_tokens": [1]}}, "trainable_token_indices"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules"),
        ({"target_modules": ["model.embed_tokens"]}, "target_modules"),
        ({"target_modules": "lm_head"}, "target_modules"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"peft_type": "IA3", "r": None}, "peft_type"),
    ],
)
def test_what_vllm_refuses_is_refused_here(change: dict[str, Any], param: str) -> None:
    config = {"r": 64, "bias": "none", "init_lora_weights": True, "use_rslora": True, "rank_pattern": {}}
    check_servable(config, max_rank=64)
    with pytest.raises(InvalidInput) as refused:
        check_servable(config | change, max_rank=64)
    assert (refused.value.code, refused.value.param) == ("unservable_adapter", param)


def test_serving_names_go_both_ways() -> None:
    assert parse_serving_name(serving_name("radiology", "mri-0a")) == ("radiology", "mri-0a")


@pytest.mark.parametrize("name", ["", "a", "a/", "/b", "a/b/c", "../x", "a/..", "A/b1", "a/b1\n", "а/b1"])
def test_other_names_are_not_ours(name: str) -> None:
    assert parse_serving_name(name) is None


@given(st.text())
def test_parsing_any_name_never_raises(name: str) -> None:
    parsed = parse_serving_name(name)
    assert parsed is None or serving_name(*parsed) == name

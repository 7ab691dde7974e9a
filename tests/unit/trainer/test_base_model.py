"""Base models: complete or refused; an interrupted fetch leaves nothing that looks like one."""

import json
from pathlib import Path

import pytest

from narrowcast.errors import Unavailable
from narrowcast_trainer.base_model import InvalidBaseModel, check_complete, ensure_base_model


def complete(folder: Path, shards: tuple[str, ...] = ("model.safetensors",)) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer_config.json", *shards):
        (folder / name).write_text("{}")
    if len(shards) > 1:
        weights = {f"layer.{number}": shard for number, shard in enumerate(shards)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    return folder


def test_what_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    folder = complete(tmp_path / "base")
    assert ensure_base_model(tmp_path, "base", "hf://never/asked") == folder


@pytest.mark.parametrize("missing", ["config.json", "tokenizer_config.json", "b.safetensors"])
def test_an_incomplete_folder_is_named_not_overwritten(tmp_path: Path, missing: str) -> None:
    folder = complete(tmp_path / "base", ("a.safetensors", "b.safetensors"))
    check_complete(folder)
    (folder / missing).unlink()
    with pytest.raises(InvalidBaseModel, match=missing):
        ensure_base_model(tmp_path, "base", "hf://never/asked")
    assert (folder / "a.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "source", "param"),
    [
        ("base", "https://example.com/x", "source"),
        ("../base", "hf://owner/name", "name"),
        (".base", "hf://owner/name", "name"),
        ("base", "hf://not a repository", "source"),
    ],
)
def test_bad_arguments_are_named(tmp_path: Path, name: str, source: str, param: str) -> None:
    with pytest.raises(InvalidBaseModel) as caught:
        ensure_base_model(tmp_path, name, source)
    assert caught.value.param == param
    assert not (tmp_path / "base").exists()


def test_a_hub_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(Unavailable) as caught:
        ensure_base_model(tmp_path, "base", "hf://owner/name")
    assert caught.value.code == "hub_unavailable"
    assert not (tmp_path / "base").exists()

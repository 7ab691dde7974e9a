"""llama.cpp's converters and quantiser: from Hugging Face's format to GGUF."""

import sys
from collections.abc import Sequence
from pathlib import Path

from narrowcast.errors import JobFailed
from narrowcast.exports import Quantization
from narrowcast_trainer.export.tools import run_tool


class LlamaCpp:
    """A folder with llama.cpp's converters and ``bin/llama-quantize``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()

    def check(self) -> None:
        """Check that it is there.

        Raises:
            JobFailed: ``llama_cpp_missing``.
        """
        for file in ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "bin/llama-quantize"):
            if not (self._folder / file).is_file():
                raise JobFailed(
                    f"this trainer has no llama.cpp: {file} is not in trainer.llama_cpp_dir"
                    " (`make llama.cpp`; the image has one)",
                    code="llama_cpp_missing",
                )

    def convert(self, checkpoint: Path, destination: Path) -> None:
        """Convert a checkpoint to an f16 GGUF.

        Raises:
            JobFailed: llama.cpp does not know the architecture or the tokenizer, or the disk is full.
        """
        script = self._folder / "convert_hf_to_gguf.py"
        self._run(
            [sys.executable, script, checkpoint, "--outfile", destination, "--outtype", "f16"], destination
        )

    def convert_vocabulary(self, base: Path, destination: Path) -> None:
        """Convert a base's tokenizer alone.

        Raises:
            JobFailed: llama.cpp does not know the tokenizer.
        """
        script = self._folder / "convert_hf_to_gguf.py"
        self._run([sys.executable, script, base, "--outfile", destination, "--vocab-only"], destination)

    def convert_lora(self, adapter: Path, base: Path, destination: Path) -> None:
        """Convert an adapter in PEFT's format to an f16 GGUF; of the base only the configuration is read.

        Raises:
            JobFailed: as :meth:`convert`.
        """
        script = self._folder / "convert_lora_to_gguf.py"
        command = [
            sys.executable,
            script,
            adapter,
            "--base",
            base,
            "--outfile",
            destination,
            "--outtype",
            "f16",
        ]
        self._run(command, destination)

    def quantize(self, source: Path, destination: Path, quantization: Quantization, threads: int) -> None:
        """Quantise an f16 GGUF.

        Raises:
            JobFailed: llama.cpp refuses, or the disk is full.
        """
        command = [self._folder / "bin" / "llama-quantize", source, destination, quantization, str(threads)]
        run_tool("llama-quantize", command, destination.parent)

    def _run(self, command: Sequence[str | Path], destination: Path) -> None:
        script = Path(command[1])
        run_tool(script.stem, command, destination.parent)

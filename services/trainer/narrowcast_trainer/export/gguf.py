"""llama.cpp's converters and quantiser: from Hugging Face's format to GGUF."""

import sys
from pathlib import Path

from narrowcast.errors import JobFailed
from narrowcast.exports import Quantization
from narrowcast_trainer.export.tools import run_tool


class LlamaCpp:
    """A folder with llama.cpp's converters and ``bin/llama-quantize``."""

    def __init__(self, folder: Path) -> None:
        self._model_converter = folder.resolve() / "convert_hf_to_gguf.py"
        self._lora_converter = folder.resolve() / "convert_lora_to_gguf.py"
        self._quantizer = folder.resolve() / "bin" / "llama-quantize"

    def check(self) -> None:
        """Check that it is there.

        Raises:
            JobFailed: ``llama_cpp_missing``.
        """
        for program in (self._model_converter, self._lora_converter, self._quantizer):
            if not program.is_file():
                raise JobFailed(
                    f"this trainer has no llama.cpp: {program.name} is not in trainer.llama_cpp_dir"
                    " (`make llama.cpp`; the image has one)",
                    code="llama_cpp_missing",
                )

    def convert(self, checkpoint: Path, destination: Path) -> None:
        """Convert a checkpoint to an f16 GGUF.

        Raises:
            JobFailed: llama.cpp does not know the architecture or the tokenizer.
            Unavailable: ``disk_full``.
        """
        what: tuple[str | Path, ...] = (checkpoint, "--outfile", destination, "--outtype", "f16")
        run_tool("the converter", [sys.executable, self._model_converter, *what])

    def convert_lora(self, adapter: Path, base: Path, destination: Path) -> None:
        """Convert an adapter in PEFT's format to an f16 GGUF; of the base only the configuration is read.

        Raises:
            JobFailed, Unavailable: as :meth:`convert`.
        """
        what: tuple[str | Path, ...] = (adapter, "--base", base, "--outfile", destination, "--outtype", "f16")
        run_tool("the converter", [sys.executable, self._lora_converter, *what])

    def quantize(self, source: Path, destination: Path, quantization: Quantization, threads: int) -> None:
        """Quantise an f16 GGUF.

        Args:
            source: the GGUF.
            destination: the new one.
            quantization: of llama.cpp's kinds.
            threads: 0 takes every core.

        Raises:
            JobFailed: llama.cpp refuses.
            Unavailable: ``disk_full``.
        """
        command = [self._quantizer, source, destination, quantization, str(threads)]
        run_tool("llama-quantize", command)

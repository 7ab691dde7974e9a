"""Whether an export fits onto the disk, found out before it begins."""

import shutil
from pathlib import Path
from typing import Final

from narrowcast.errors import Unavailable
from narrowcast.exports import ExportFormat
from narrowcast_trainer.export.merge import parameter_count

_BYTES_16BIT: Final = 2
_CHECKPOINTS: Final[dict[ExportFormat, int]] = {"merged": 1, "gguf": 2, "lora-gguf": 0}
"""16-bit copies of the base that lie in ``work_dir`` at the most. For gguf: the merged one and the GGUF
made from it. The first is deleted before the second is quantised, which makes a smaller one."""
_ADAPTER_COPIES: Final = 2
_GB: Final = 1e9
DISK_FULL: Final = "the trainer's work_dir is full: free some space"


def check_space(work_dir: Path, base: Path, adapter_bytes: int, format_: ExportFormat) -> None:
    """Check that ``work_dir`` has room for what an export of this format writes there.

    Raises:
        Unavailable: ``disk_full``, with what is needed and what there is; another export may be using it.
    """
    weights = _CHECKPOINTS[format_] * _BYTES_16BIT * parameter_count(base)
    needed = weights + _ADAPTER_COPIES * adapter_bytes + _other_files(base)
    free = shutil.disk_usage(work_dir).free
    if free < needed:
        raise Unavailable(
            f"the export needs {needed / _GB:.1f} GB on the trainer's work_dir, where {free / _GB:.1f} GB"
            " are free: free some space, or give it some",
            code="disk_full",
        )


def _other_files(base: Path) -> int:
    """Return the size of tokenizer and configuration, which a GGUF holds as well."""
    return sum(file.stat().st_size for file in base.iterdir() if file.suffix != ".safetensors") * 2

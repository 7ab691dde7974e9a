"""Why a training process failed, in words that say what to do; libraries' own words stay inside it."""

import shutil
from pathlib import Path
from typing import Final

from narrowcast.errors import NO_ROOM, NarrowcastError, Outage, Unavailable
from narrowcast_trainer.memory import causes, is_out_of_memory
from narrowcast_trainer.protocol import OUT_OF_MEMORY, Failed

FULL_WORDS: Final = ("os error 28)", "No space left on device", "os error 122)", "Disk quota exceeded")
"""Of errors that are no OSErrors: safetensors', and what a program prints."""
_WRITER: Final = "PytorchStreamWriter"
"""PyTorch says neither why it could not write nor that the disk is full."""
_NO_ROOM_BYTES: Final = 1024 * 1024
SEE_LOG: Final = "see the trainer's log under the job's id for why"
DISK_FULL: Final = (
    "the trainer's work_dir is full: free some space, or give it some; a job needs room for one checkpoint"
)


def reason_of(error: Exception, work_dir: Path) -> Failed:
    """Return what the worker is told of an error; foreign errors' texts stay here.

    Args:
        error: what ended the training.
        work_dir: where it wrote.
    """
    if isinstance(error, NarrowcastError):
        retry = isinstance(error, Unavailable)
        outage = isinstance(error, Outage)
        return Failed(code=error.code, message=error.message, param=error.param, retry=retry, outage=outage)
    kind = type(error).__name__
    if is_out_of_memory(error):
        return Failed(code="out_of_memory", message=OUT_OF_MEMORY)
    if any(_disk_full(one, work_dir) for one in causes(error)):
        # It passes when somebody makes room, and what was trained up to the newest checkpoint is kept.
        return Failed(code="disk_full", message=DISK_FULL, retry=True)
    # A RuntimeError may be the device's fault, so the job may fare better next time.
    retry = isinstance(error, RuntimeError | OSError)
    message = f"the training stopped with {kind}: {SEE_LOG}"
    return Failed(code="training_crashed", message=message, retry=retry)


def _disk_full(error: BaseException, work_dir: Path) -> bool:
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return True
    text = str(error)
    if any(words in text for words in FULL_WORDS):
        return True
    return _WRITER in text and _no_room(work_dir)


def _no_room(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _NO_ROOM_BYTES
    except OSError:
        return False

"""Runs the programs that an export is made with: never outliving it, quoted only where they fail."""

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.jobs.stopping import set_parent_death_signal
from narrowcast_trainer.export.space import DISK_FULL
from narrowcast_trainer.reasons import FULL_WORDS

_QUOTED: Final = 300
_TAIL_BYTES: Final = 16 * 1024
_FULL: Final = (
    *FULL_WORDS,
    "Not enough free space to write",  # NumPy, in the converters
    " requested and ",  # NumPy on a file system that reserves nothing: "65536 requested and 4096 written"
    "basic_ios::clear: iostream error",  # llama-quantize, of a write that failed: it reads in another way
)
_NO_REASON: Final = re.compile(r"\d%\||: failed to quantize model from ")
"""Lines that come after the reason: the converters' progress bar, which is drawn once more at the end, and
llama-quantize's name of the file."""


def run_tool(name: str, command: Sequence[str | Path]) -> None:
    """Run a program that turns the files of a model into others.

    It is given no row and no prompt, so its last words can be quoted; folders of this node are
    left out of them.

    Args:
        name: of the program, one of llama.cpp's, for messages.
        command: program and arguments.

    Raises:
        JobFailed: ``conversion_failed`` with the last line that says why.
        Unavailable: ``disk_full``.
        MemoryError: the kernel killed it.
    """
    # What it prints stays in memory, some hundred KB: on a disk that is full it could not say so.
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment({"HF_HUB_OFFLINE": "1"}),
        preexec_fn=partial(set_parent_death_signal, signal.SIGKILL),
        check=False,
    )
    if done.returncode == 0:
        return
    if done.returncode == -signal.SIGKILL:
        raise MemoryError
    said = done.stdout[-_TAIL_BYTES:].decode(errors="replace")
    # By its words: what could not be written may have left room behind, and others may have made some.
    if any(words in said for words in _FULL):
        raise Unavailable(DISK_FULL, code="disk_full")
    raise JobFailed(f"{name} of llama.cpp failed: {_last_line(said, command)}", code="conversion_failed")


def _last_line(said: str, command: Sequence[str | Path]) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip() and not _NO_REASON.search(line)]
    last = lines[-1] if lines else "it said nothing"
    for part in command:
        if isinstance(part, Path):
            last = last.replace(str(part), part.name)
    return last[:_QUOTED]


def _environment(changes: dict[str, str]) -> dict[str, str]:
    # What these programs have no need to know stays out of their reach.
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("NARROWCAST_", "HF_TOKEN"))
    }
    return kept | changes

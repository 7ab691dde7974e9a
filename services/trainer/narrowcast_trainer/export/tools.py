"""Runs the programs that an export is made with: never outliving it, quoted only where they fail."""

import os
import signal
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.jobs.stopping import set_parent_death_signal

_QUOTED: Final = 300
_TAIL_BYTES: Final = 16 * 1024


def run_tool(name: str, command: Sequence[str | Path], scratch: Path) -> None:
    """Run a program that turns the files of a model into others.

    It is given no row and no prompt, so its last words can be quoted; folders of this node are
    left out of them.

    Args:
        name: of the program, one of llama.cpp's, for messages.
        command: program and arguments.
        scratch: where its output is kept while it runs.

    Raises:
        JobFailed: ``conversion_failed`` with its last line.
        Unavailable: ``disk_full``.
        MemoryError: the kernel killed it.
    """
    log = scratch / "output.log"
    with log.open("wb") as output:
        status = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment({"HF_HUB_OFFLINE": "1"}),
            preexec_fn=partial(set_parent_death_signal, signal.SIGKILL),
            check=False,
        ).returncode
    if status == 0:
        return
    if status == -signal.SIGKILL:
        raise MemoryError
    said = log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
    if "No space left on device" in said:
        raise Unavailable("the trainer's work_dir is full: free some space", code="disk_full")
    raise JobFailed(f"{name} of llama.cpp failed: {_last_line(said, command)}", code="conversion_failed")


def _last_line(said: str, command: Sequence[str | Path]) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
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

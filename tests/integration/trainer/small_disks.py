"""File systems of a few KiB or MiB, for a test to fill."""

import subprocess
import time
from pathlib import Path

import pytest


def mounting(folder: Path, kib: int) -> tuple[str, ...]:
    """Return a command that runs another with a small file system of its own at ``folder``.

    In a mount namespace: it is gone with the last process in it, and needs no root where
    users may have namespaces.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = f'mount -t tmpfs -o size={kib}k small "$0" && exec "$@"'
    command = ("unshare", "--mount", "--map-root-user", "sh", "-c", script, str(folder))
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here, not even in a namespace")
    return command


def seen_by(process: int, folder: Path) -> Path:
    """Return where a process's own ``folder`` is to be reached from here."""
    return Path(f"/proc/{process}/root") / folder.relative_to("/")


def fill(file: Path) -> None:
    """Leave no room; also none that the job frees meanwhile."""
    with file.open("wb", buffering=0) as stream:
        full = 0
        while full < 20:
            try:
                stream.write(bytes(4096))
            except OSError:
                full += 1
                time.sleep(0.05)

"""Run a converter on a hostile file: time, memory and file limits, no network, no home."""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from narrowcast_gateway.preprocessing.reading import limits

_LIMITED_EXEC = Path(__file__).with_name("limited_exec.py")


class ConversionError(Exception):
    """The converter failed; another one may do better."""


class ConversionTimeoutError(ConversionError):
    """The converter was stopped at its time limit."""


def run_limited(
    command: Sequence[str],
    folder: Path,
    *,
    seconds: float = limits.CONVERSION_SECONDS,
    memory_bytes: int = limits.CONVERSION_MEMORY_BYTES,
) -> bytes:
    """Run ``command`` in ``folder``, which is also its home and temporary folder.

    Returns:
        its standard output.

    Raises:
        ConversionTimeoutError: it ran past ``seconds`` of wall clock.
        ConversionError: any other failure. Its error output is dropped: it may quote the text.
    """
    cpu_seconds = min(limits.CONVERSION_CPU_SECONDS, int(seconds) + 1)
    limited = [
        *_without_network(),
        sys.executable,
        "-I",
        "-S",
        str(_LIMITED_EXEC),
        *map(str, (cpu_seconds, memory_bytes, limits.CONVERSION_OUTPUT_BYTES)),
        *command,
    ]
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
    }
    output = folder / "stdout"
    with output.open("wb") as stdout:
        process = subprocess.Popen(
            limited,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise ConversionTimeoutError from error
        finally:
            # LibreOffice's launcher leaves its child behind when killed alone.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status == -signal.SIGXCPU:
        raise ConversionTimeoutError
    if status != 0:
        raise ConversionError
    return output.read_bytes()


@functools.cache
def _without_network() -> tuple[str, ...]:
    """``unshare`` into an empty network namespace, where the kernel lets a user do so."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return ()
    prefix = (unshare, "--map-root-user", "--net", "--")
    probe = subprocess.run([*prefix, "true"], check=False, capture_output=True, timeout=10)
    return prefix if probe.returncode == 0 else ()

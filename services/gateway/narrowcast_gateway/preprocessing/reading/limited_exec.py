"""Run a program under resource limits: ``limited_exec.py CPU_S MEMORY_B FILE_B PROGRAM ARG…``.

A script of its own, because setting limits between fork and exec in a process that has
threads can deadlock. Imports nothing of ours, so that it starts in milliseconds.
"""

import os
import resource
import sys


def main() -> None:
    """Set the limits, then become the program."""
    cpu_seconds, memory_bytes, file_bytes = (int(value) for value in sys.argv[1:4])
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execvp(sys.argv[4], sys.argv[4:])  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()

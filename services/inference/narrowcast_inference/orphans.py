"""Ends vLLM's engine when the server process that started it is gone.

vLLM's engine outlives a server that was killed (measured on 0.32): it keeps the memory, on a
GPU all of it, and the next server cannot start.
"""

import multiprocessing
import os
import signal
import threading
from multiprocessing.process import BaseProcess

_THREAD = "narrowcast-parent-watch"


def end_with_parent() -> None:
    """In a process that multiprocessing started, watch its parent; elsewhere do nothing."""
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == _THREAD for thread in threading.enumerate()):
        return
    threading.Thread(target=_watch, args=(parent,), name=_THREAD, daemon=True).start()


def _watch(parent: BaseProcess) -> None:
    parent.join()  # a pipe that closes when the parent dies, however it dies
    os.kill(os.getpid(), signal.SIGKILL)  # nobody is left to whom a clean end would matter

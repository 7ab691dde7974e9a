"""Linux: a process that does not outlive its parent."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def set_parent_death_signal(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent dies.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def die_with(parent: int) -> None:
    """Be killed when process ``parent`` dies, also if it is dead already."""
    set_parent_death_signal(signal.SIGKILL)
    # The parent may have died before the line above: then nobody sends the signal.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)

"""Whether memory ran out: what the kernel has killed for it, what an error says."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_OUT_OF_MEMORY_WORDS: Final = (
    "can't allocate memory",  # PyTorch on a CPU
    "out of memory",  # CUDA's driver and NCCL, whose errors have no type of their own
    "cublas_status_alloc_failed",
    "std::bad_alloc",
)


def out_of_memory_kills() -> int:
    """Return how many processes of this control group the kernel has killed for want of memory.

    Reads ``oom_kill`` of cgroup v2's ``memory.events``, and of ``/proc/vmstat`` where that is
    not there (the whole machine's count); 0 where neither is readable.
    """
    for source in (_cgroup_events(), Path("/proc/vmstat")):
        try:
            fields = dict(line.split() for line in source.read_text().splitlines())
            return int(fields["oom_kill"])
        except (OSError, KeyError, ValueError):
            continue
    return 0


def _cgroup_events() -> Path:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::")), "")
    return Path("/sys/fs/cgroup") / own / "memory.events"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, means that memory ran out: by its type, or by its words."""
    return any(_says_out_of_memory(one) for one in causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and what it was raised from or while handling."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _says_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return any(words in text for words in _OUT_OF_MEMORY_WORDS)

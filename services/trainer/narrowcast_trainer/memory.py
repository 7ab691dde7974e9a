"""Whether the kernel has been killing for want of memory."""

from pathlib import Path


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
    """Whether an error means that memory ran out: CUDA has a type for it, PyTorch on a CPU these words."""
    typed = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return typed or "can't allocate memory" in str(error)

"""Which adapters lie in the cache, making room among them, and who may.

While another vLLM uses the cache, an adapter that is removed may kill its engine (see
:mod:`.cache`), and only that process can make it forget one. Every process therefore holds a
shared lock on the cache for its whole life, and who removes anything asks for the exclusive one:
with a second replica on the same folder, nothing is removed.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock

from narrowcast import logs
from narrowcast.artifacts import MANIFEST
from narrowcast.errors import NarrowcastError

ADAPTERS_FOLDER: Final = "adapters"
LOCKS_FOLDER: Final = "locks"
_IN_USE: Final = ".in-use"
_CLAIMING: Final = ".claiming"

log = logs.get(__name__)

Published = Callable[[], set[tuple[str, str]]]

_claims: dict[Path, int] = {}
"""Descriptors of this process's locks, by the cache."""


def claim_and_clean(folder: Path, max_bytes: int, published: Published) -> int:
    """Mark the cache as used by this process until it exits; clean it first if nobody else uses it.

    Removes leftovers of interrupted downloads and adapters that have been deleted, then the least
    recently used ones until the rest is within ``max_bytes``.

    Args:
        folder: the cache.
        max_bytes: of all adapters.
        published: returns tenant and id of every adapter in the object store. If it fails, or finds none
            at all, none is taken for deleted: the copies here may be the last.

    Returns:
        The descriptor that holds the claim.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claims[folder] = descriptor = os.open(folder / _IN_USE, os.O_RDWR | os.O_CREAT, 0o600)
    with sole_user(folder) as alone:
        if alone:
            _clean(folder, max_bytes, published)
        else:
            log.info("adapter cache in use by another process, not cleaned")
    return descriptor


@contextmanager
def sole_user(folder: Path) -> Iterator[bool]:
    """Keep other processes from starting to use the cache; says whether none does already.

    One thread at a time. False too for a process that has not claimed the cache.
    """
    descriptor = _claims.get(folder)
    if descriptor is None:
        yield False
        return
    # To turn a shared lock into an exclusive one the kernel drops it first: one process at a time may.
    with FileLock(folder / _CLAIMING):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        try:
            yield alone
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def least_recently_used(folder: Path) -> list[Path]:
    """Return the adapters in the cache, the one to go first at the front; no leftovers."""
    used = []
    for adapter in filter(Path.is_dir, (folder / ADAPTERS_FOLDER).glob("*/[!.]*")):
        with suppress(FileNotFoundError):  # another thread removes it
            used.append((adapter.stat().st_mtime, adapter))
    return [adapter for _, adapter in sorted(used)]


def size_on_disk(adapter: Path) -> int:
    """Return the bytes of the files in an adapter's folder, which may be under way, or gone by now."""
    total = 0
    for folder, _, names in os.walk(adapter):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(folder, name).stat().st_size
    return total


def remove(adapter: Path, reason: str) -> None:
    """Remove an adapter's folder that nobody will read again."""
    size = size_on_disk(adapter)
    # The manifest goes first: what is left of an interrupted removal is no adapter.
    (adapter / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(adapter)
    log.info("adapter removed from the cache", adapter=adapter.name, bytes=size, reason=reason)


def deleted_among(adapters: list[Path], published: Published) -> list[Path]:
    """Return those that the object store no longer has; none if it fails or is empty (see above)."""
    try:
        there = published()
    except NarrowcastError as error:
        log.warning("deleted adapters stay in the cache", code=error.code)
        return []
    if not there:
        log.warning("the object store has no adapter: none is removed from the cache")
        return []
    return [adapter for adapter in adapters if (adapter.parent.name, adapter.name) not in there]


def _clean(folder: Path, max_bytes: int, published: Published) -> None:
    shutil.rmtree(folder / LOCKS_FOLDER, ignore_errors=True)
    for leftover in filter(Path.is_dir, (folder / ADAPTERS_FOLDER).glob("*/.*")):
        remove(leftover, "leftover")
    adapters = least_recently_used(folder)
    deleted = deleted_among(adapters, published)
    for adapter in deleted:
        remove(adapter, "deleted")
    kept = [adapter for adapter in adapters if adapter not in deleted]
    total = sum(map(size_on_disk, kept))
    for adapter in kept:
        if total <= max_bytes:
            return
        total -= size_on_disk(adapter)
        remove(adapter, "full")

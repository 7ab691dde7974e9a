"""Making room in the adapter cache, at start only.

While any vLLM uses the cache, a removed adapter may kill its engine (see :mod:`.cache`). Every
process therefore holds a shared lock on the cache for its whole life, and cleaning asks for the
exclusive one: with a second replica on the same folder, nothing is removed.
"""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from narrowcast import logs
from narrowcast.artifacts import MANIFEST
from narrowcast.errors import NarrowcastError
from narrowcast_inference.cache import ADAPTERS_FOLDER, LOCKS_FOLDER

_IN_USE = ".in-use"

log = logs.get(__name__)


Published = Callable[[], set[tuple[str, str]]]


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
        The descriptor that holds the claim. It is inheritable: it survives an exec.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("adapter cache in use by another process, not cleaned")
    else:
        _clean(folder, max_bytes, published)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.set_inheritable(descriptor, True)
    return descriptor


def _clean(folder: Path, max_bytes: int, published: Published) -> None:
    shutil.rmtree(folder / LOCKS_FOLDER, ignore_errors=True)
    total = 0
    adapters = [path for path in (folder / ADAPTERS_FOLDER).glob("*/*") if path.is_dir()]
    newest_first = sorted(adapters, key=lambda path: path.stat().st_mtime, reverse=True)
    whole = [adapter for adapter in newest_first if not adapter.name.startswith(".")]
    deleted = _deleted(whole, published)
    for adapter in newest_first:
        size = sum(file.stat().st_size for file in adapter.rglob("*") if file.is_file())
        if adapter not in whole:
            reason = "leftover"
        elif adapter in deleted:
            reason = "deleted"
        elif total + size > max_bytes:
            reason = "full"
        else:
            total += size
            continue
        # The manifest goes first: what is left of an interrupted removal is no adapter.
        (adapter / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(adapter)
        log.info("adapter removed from the cache", adapter=adapter.name, bytes=size, reason=reason)


def _deleted(adapters: list[Path], published: Published) -> list[Path]:
    try:
        there = published()
    except NarrowcastError as error:
        log.warning("deleted adapters stay in the cache", code=error.code)
        return []
    if not there:
        log.warning("the object store has no adapter: none is removed from the cache")
        return []
    return [adapter for adapter in adapters if (adapter.parent.name, adapter.name) not in there]

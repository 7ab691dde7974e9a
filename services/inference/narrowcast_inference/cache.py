"""Adapters on the local disk, fetched from S3 once and never changed afterwards.

vLLM reads an adapter's folder again whenever it has evicted the adapter from memory: a folder
that is gone by then kills the engine, and one with other content answers with a mixture. So
a folder that was handed out is never replaced, and removed only after vLLM has forgotten the
adapter (:mod:`.usage`). Adapters are immutable, hence a path is too.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from pydantic import ValidationError

from narrowcast import logs
from narrowcast.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterManifest,
    adapter_prefix,
    check_servable,
    parse_serving_name,
    serving_name,
)
from narrowcast.artifacts import MANIFEST, CorruptArtifact, fetch, read_file, read_manifest, sha256_of
from narrowcast.errors import NO_ROOM, InvalidInput, NotFound, Unavailable
from narrowcast.storage import Bucket
from narrowcast_inference.cleaning import (
    ADAPTERS_FOLDER,
    LOCKS_FOLDER,
    Published,
    deleted_among,
    least_recently_used,
    remove,
    size_on_disk,
    sole_user,
)
from narrowcast_inference.metrics import FETCHED

_NEEDED: Final = (ADAPTER_CONFIG, ADAPTER_WEIGHTS)
"""All that vLLM reads. What else an adapter may hold (a GGUF, a README) is not fetched."""
_MIB: Final = 1024**2

log = logs.get(__name__)


class AdapterCache:
    """Fetches, checks and keeps adapters for one base model.

    Args:
        bucket: the models bucket; only read.
        folder: ours alone, or shared with other replicas on this machine.
        fingerprints: base models whose adapters fit the one that is served.
        max_rank: vLLM's ``--max-lora-rank``.
        max_bytes: of all adapters; above it those that are not used make room for a new one.
        min_free_mib: MiB that must stay free on the disk.
        idle_s: seconds since its last use before an adapter may make room.
        lock_timeout_s: seconds to wait while another thread or process fetches the same adapter.
        forget: makes vLLM forget the adapter of this serving name, unless it is in use; returns whether
            it has.
    """

    def __init__(
        self,
        bucket: Bucket,
        folder: Path,
        fingerprints: frozenset[str],
        max_rank: int,
        *,
        max_bytes: int,
        min_free_mib: int = 256,
        idle_s: float = 60.0,
        lock_timeout_s: float = 120.0,
        forget: Callable[[str], bool],
    ) -> None:
        self._bucket = bucket
        self._folder = folder
        self._fingerprints = fingerprints
        self._max_rank = max_rank
        self._max_bytes = max_bytes
        self._min_free = min_free_mib * _MIB
        self._idle_s = idle_s
        self._lock_timeout_s = lock_timeout_s
        self._forget = forget
        self._handed_out: set[Path] = set()
        self._guard = threading.Lock()

    def folder_of(self, tenant: str, adapter_id: str) -> Path:
        """Return where the adapter lies, or will lie."""
        return self._folder / ADAPTERS_FOLDER / tenant / adapter_id

    def ensure(self, tenant: str, adapter_id: str) -> Path:
        """Return the folder of a whole, checked adapter, fetching it if need be.

        Blocks; safe from any thread and process.

        Raises:
            NotFound: no such adapter.
            CorruptArtifact: what is stored is not what was published.
            InvalidInput: ``wrong_base_model`` or ``unservable_adapter``.
            Unavailable: the object store, or the local disk (``cache_full``, ``cache_unwritable``,
                ``cache_busy``); trying again may help.
        """
        if parse_serving_name(serving_name(tenant, adapter_id)) is None:
            raise NotFound("no such adapter")
        try:
            with self._locked(tenant, adapter_id):
                return self._ensure(tenant, adapter_id)
        except OSError as error:
            code = "cache_full" if error.errno in NO_ROOM else "cache_unwritable"
            raise Unavailable(f"the adapter cache cannot take {adapter_id}", code=code) from error

    def touch(self, tenant: str, adapter_id: str) -> None:
        """Note that the adapter was used, if it is here."""
        with suppress(OSError):
            os.utime(self.folder_of(tenant, adapter_id))

    def remove_deleted(self, published: Published) -> None:
        """Remove adapters that the object store no longer has, unless they are in use.

        Args:
            published: see :func:`.cleaning.claim_and_clean`.
        """
        if deleted := deleted_among(least_recently_used(self._folder), published):
            with sole_user(self._folder) as alone:
                for adapter in deleted if alone else []:
                    self._evict(adapter, "deleted")

    def _ensure(self, tenant: str, adapter_id: str) -> Path:
        folder = self.folder_of(tenant, adapter_id)
        with self._guard:
            handed_out = folder in self._handed_out
        manifest = _read_local(folder, full=not handed_out)
        if manifest is None and handed_out:
            raise CorruptArtifact(f"the cached copy of {adapter_id} was damaged while in use; restart")
        if manifest is None:
            _discard(folder)
            manifest = self._download(tenant, adapter_id, folder)
        else:
            # The served base and the rank limit may differ from those of the process that fetched it.
            self._check_base(manifest)
            _check_config((folder / ADAPTER_CONFIG).read_bytes(), adapter_id, self._max_rank)
        self.touch(tenant, adapter_id)
        with self._guard:
            self._handed_out.add(folder)
        return folder

    def _download(self, tenant: str, adapter_id: str, folder: Path) -> AdapterManifest:
        prefix = adapter_prefix(tenant, adapter_id)
        manifest = read_manifest(self._bucket, prefix, AdapterManifest)
        if (manifest.tenant, manifest.id) != (tenant, adapter_id):
            raise CorruptArtifact(f"the manifest under {prefix} is that of another adapter")
        self._check_base(manifest)
        if missing := [name for name in _NEEDED if name not in manifest.files]:
            raise CorruptArtifact(f"{adapter_id} has no {missing[0]}", param=missing[0])
        needed = manifest.model_copy(update={"files": {name: manifest.files[name] for name in _NEEDED}})
        _check_config(read_file(self._bucket, prefix, needed, ADAPTER_CONFIG), adapter_id, self._max_rank)
        self._make_room(_size(needed))
        if shutil.disk_usage(self._folder).free - _size(needed) < self._min_free:
            raise Unavailable(f"no room in the adapter cache for {adapter_id}", code="cache_full")
        fetch(self._bucket, prefix, needed, folder)
        FETCHED.inc(_size(needed))
        log.info("adapter fetched", tenant=tenant, adapter=adapter_id, bytes=_size(needed))
        return needed

    def _check_base(self, manifest: AdapterManifest) -> None:
        if manifest.base.fingerprint not in self._fingerprints:
            raise InvalidInput(
                f"{manifest.id} was trained on another base model ({manifest.base.name})",
                code="wrong_base_model",
            )

    def _make_room(self, size: int) -> None:
        """Remove adapters that nobody uses until ``size`` more bytes fit, or none is left."""
        if self._missing(size) <= 0:
            return
        with sole_user(self._folder) as alone:
            for adapter in least_recently_used(self._folder) if alone else []:
                if self._missing(size) <= 0:
                    return
                self._evict(adapter, "full")

    def _missing(self, size: int) -> int:
        used = sum(map(size_on_disk, (self._folder / ADAPTERS_FOLDER).glob("*/*")))
        free = shutil.disk_usage(self._folder).free
        return size + max(used - self._max_bytes, self._min_free - free)

    def _evict(self, adapter: Path, reason: str) -> None:
        tenant, adapter_id = adapter.parent.name, adapter.name
        with suppress(Unavailable, FileNotFoundError), self._locked(tenant, adapter_id, timeout_s=0):
            idle_s = time.time() - adapter.stat().st_mtime
            if idle_s >= self._idle_s and self._forget(serving_name(tenant, adapter_id)):
                with self._guard:
                    self._handed_out.discard(adapter)
                remove(adapter, reason)

    @contextmanager
    def _locked(self, tenant: str, adapter_id: str, timeout_s: float | None = None) -> Iterator[None]:
        path = self._folder / LOCKS_FOLDER / tenant / f"{adapter_id}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        # One lock object a call: two of them exclude each other between threads as between processes.
        lock = FileLock(path, timeout=self._lock_timeout_s if timeout_s is None else timeout_s)
        try:
            lock.acquire()
        except Timeout as error:
            raise Unavailable(f"{adapter_id} is still being fetched", code="cache_busy") from error
        try:
            yield
        finally:
            lock.release()


def cached_adapters(folder: Path) -> int:
    """Return how many whole adapters the cache in ``folder`` holds."""
    # A name with a dot in front is a download in progress, or a removal.
    return sum(1 for _ in (folder / ADAPTERS_FOLDER).glob(f"*/[!.]*/{MANIFEST}"))


def _size(manifest: AdapterManifest) -> int:
    return sum(entry.size for entry in manifest.files.values())


def _check_config(raw: bytes, adapter_id: str, max_rank: int) -> None:
    try:
        config = json.loads(raw)
        check_servable(config, max_rank)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptArtifact(
            f"{ADAPTER_CONFIG} of {adapter_id} is not a PEFT configuration", param=ADAPTER_CONFIG
        ) from error


def _read_local(folder: Path, *, full: bool) -> AdapterManifest | None:
    """Return the manifest of a cached adapter, or None if it is absent or damaged.

    ``full`` compares checksums (once per process: a disk or an operator may have changed it since
    the last one); otherwise sizes.
    """
    try:
        manifest = AdapterManifest.model_validate_json((folder / MANIFEST).read_bytes())
        for name, entry in manifest.files.items():
            path = folder / name
            if path.stat().st_size != entry.size or (full and sha256_of(path) != entry.sha256):
                return None
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    return manifest if all(name in manifest.files for name in _NEEDED) else None


def _discard(folder: Path) -> None:
    """Remove a damaged folder that nobody was given; under another name first, so that it goes at once."""
    trash = folder.with_name(f".{folder.name}.{os.getpid()}.trash")
    with suppress(FileNotFoundError):
        folder.rename(trash)
        log.warning("damaged adapter removed from the cache", adapter=folder.name)
        shutil.rmtree(trash)

"""The adapter cache on a real S3 server."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from narrowcast.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_prefix
from narrowcast.artifacts import MANIFEST, CorruptArtifact
from narrowcast.errors import InvalidInput, NarrowcastError, NotFound, Unavailable
from narrowcast.settings import StorageSettings
from narrowcast.storage import Bucket, Storage
from narrowcast_inference.cache import AdapterCache
from narrowcast_inference.cleaning import claim_and_clean, size_on_disk

Publish = Callable[..., str]
Make = Callable[..., AdapterCache]


class CountingBucket:
    """The real bucket; counts the downloads of each key."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.reads: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        self.reads[key] += 1
        return self._bucket.get(key)

    def stream(self, key: str) -> Iterator[bytes]:
        self.reads[key] += 1
        return self._bucket.stream(key)


@pytest.fixture
def make_cache(models: Bucket, fingerprint: str, tmp_path: Path) -> Make:
    def make(
        bucket: Any = models, fingerprints: tuple[str, ...] = (fingerprint,), **changes: Any
    ) -> AdapterCache:
        settings: dict[str, Any] = {"max_bytes": 10**9, "forget": lambda _name: True, **changes}
        return AdapterCache(bucket, tmp_path, frozenset(fingerprints), 64, **settings)

    return make


def files_in(folder: Path) -> set[str]:
    """Return every file that is not a lock."""
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_fetched_once_and_whole(
    make_cache: Make, publish_adapter: Publish, models: Bucket, tenant: str, tmp_path: Path
) -> None:
    adapter = publish_adapter(tenant, "one-adapter")
    bucket = CountingBucket(models)
    cache = make_cache(bucket)
    start = threading.Barrier(8)

    def request(_: int) -> Path:
        start.wait()
        return cache.ensure(tenant, adapter)

    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(request, range(8)))
    assert folders == {tmp_path / "adapters" / tenant / adapter}
    assert files_in(tmp_path) == {MANIFEST, ADAPTER_CONFIG, ADAPTER_WEIGHTS}
    assert bucket.reads[adapter_prefix(tenant, adapter) + ADAPTER_WEIGHTS] == 1


def test_two_replicas_on_one_disk_fetch_once(
    make_cache: Make, publish_adapter: Publish, models: Bucket, tenant: str
) -> None:
    adapter = publish_adapter(tenant, "one-adapter")
    bucket = CountingBucket(models)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda cache: cache.ensure(tenant, adapter), [make_cache(bucket), make_cache(bucket)]))
    assert bucket.reads[adapter_prefix(tenant, adapter) + ADAPTER_WEIGHTS] == 1


def test_what_is_cached_needs_no_object_store(
    make_cache: Make, publish_adapter: Publish, tenant: str
) -> None:
    adapter = publish_adapter(tenant, "one-adapter")
    folder = make_cache().ensure(tenant, adapter)
    nowhere = Storage(StorageSettings(endpoint="127.0.0.1:9")).models
    assert make_cache(nowhere).ensure(tenant, adapter) == folder
    with pytest.raises(Unavailable) as caught:
        make_cache(nowhere).ensure(tenant, "two-adapter")
    assert caught.value.code == "storage_unavailable"


@pytest.mark.parametrize(
    ("name", "content"),
    [(ADAPTER_WEIGHTS, b"damaged"), (ADAPTER_CONFIG, b"{}"), (ADAPTER_WEIGHTS, None), (MANIFEST, b"{")],
)
def test_what_is_corrupt_leaves_nothing_behind(
    make_cache: Make,
    publish_adapter: Publish,
    models: Bucket,
    tenant: str,
    tmp_path: Path,
    name: str,
    content: bytes | None,
) -> None:
    key = adapter_prefix(tenant, publish_adapter(tenant, "one-adapter")) + name
    if content is None:
        models.delete(key)
    else:
        models.put(key, content)
    with pytest.raises(CorruptArtifact):
        make_cache().ensure(tenant, "one-adapter")
    assert files_in(tmp_path) == set()


def test_an_adapter_of_another_base_is_refused(
    make_cache: Make, publish_adapter: Publish, tenant: str, tmp_path: Path, fingerprint: str
) -> None:
    publish_adapter(tenant, "one-adapter", base="0" * 64)
    with pytest.raises(InvalidInput) as caught:
        make_cache().ensure(tenant, "one-adapter")
    assert caught.value.code == "wrong_base_model"
    assert files_in(tmp_path) == set()
    # An operator may name a base it fits all the same; the next process may serve another one.
    make_cache(fingerprints=(fingerprint, "0" * 64)).ensure(tenant, "one-adapter")
    with pytest.raises(InvalidInput):
        make_cache().ensure(tenant, "one-adapter")


@pytest.mark.parametrize("change", [{"use_dora": True}, {"r": 128}, {"peft_type": "LOHA"}])
def test_what_vllm_would_refuse_is_not_even_downloaded(
    make_cache: Make,
    publish_adapter: Publish,
    make_adapter: Callable[[int], Path],
    tenant: str,
    tmp_path: Path,
    change: dict[str, Any],
) -> None:
    config = json.loads((make_adapter(0) / ADAPTER_CONFIG).read_text()) | change
    publish_adapter(tenant, "one-adapter", config=json.dumps(config).encode())
    with pytest.raises(InvalidInput) as caught:
        make_cache().ensure(tenant, "one-adapter")
    assert caught.value.code == "unservable_adapter"
    assert files_in(tmp_path) == set()


def test_another_tenants_adapter_does_not_exist(
    make_cache: Make, publish_adapter: Publish, models: Bucket, tenant: str
) -> None:
    publish_adapter(tenant, "one-adapter")
    with pytest.raises(NotFound):
        make_cache().ensure("someone-else", "one-adapter")
    # Not even if its manifest is copied to where the other one may read.
    stolen = models.get(adapter_prefix(tenant, "one-adapter") + MANIFEST)
    models.put(adapter_prefix("someone-else", "one-adapter") + MANIFEST, stolen)
    with pytest.raises(CorruptArtifact):
        make_cache().ensure("someone-else", "one-adapter")


@pytest.mark.parametrize("name", ["..", "../other", "a/b", "", "A"])
def test_names_that_climb_do_not_exist(make_cache: Make, name: str) -> None:
    with pytest.raises(NotFound):
        make_cache().ensure("clinic", name)


def test_damage_on_our_disk_is_mended_at_the_next_start(
    make_cache: Make, publish_adapter: Publish, tenant: str
) -> None:
    adapter = publish_adapter(tenant, "one-adapter")
    running = make_cache()
    weights = running.ensure(tenant, adapter) / ADAPTER_WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    # vLLM may hold this folder: it is reported, not touched.
    with pytest.raises(CorruptArtifact):
        running.ensure(tenant, adapter)
    assert weights.read_bytes() == whole[:-1]
    assert make_cache().ensure(tenant, adapter) == weights.parent
    assert weights.read_bytes() == whole


def test_a_flipped_bit_is_found_at_the_next_start(
    make_cache: Make, publish_adapter: Publish, tenant: str
) -> None:
    adapter = publish_adapter(tenant, "one-adapter")
    weights = make_cache().ensure(tenant, adapter) / ADAPTER_WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    make_cache().ensure(tenant, adapter)
    assert weights.read_bytes() == whole


def test_too_little_room_is_said_before_the_download(
    make_cache: Make, publish_adapter: Publish, models: Bucket, tenant: str, tmp_path: Path
) -> None:
    adapter = publish_adapter(tenant, "one-adapter")
    bucket = CountingBucket(models)
    with pytest.raises(Unavailable) as caught:
        make_cache(bucket, min_free_mib=2**40).ensure(tenant, adapter)
    assert caught.value.code == "cache_full"
    assert bucket.reads[adapter_prefix(tenant, adapter) + ADAPTER_WEIGHTS] == 0
    assert files_in(tmp_path) == set()


def test_a_disk_that_fills_up_leaves_nothing_behind(
    make_cache: Make,
    publish_adapter: Publish,
    tenant: str,
    tmp_path: Path,
) -> None:
    resource = pytest.importorskip("resource")
    adapter = publish_adapter(tenant, "one-adapter")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A limit on the size of a file fails a write as a full disk does, in the middle of it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(NarrowcastError) as caught:
            make_cache().ensure(tenant, adapter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == "cache_full"
    assert files_in(tmp_path) == set()
    make_cache().ensure(tenant, adapter)


def test_waiting_for_another_process_is_bounded(
    make_cache: Make, publish_adapter: Publish, tenant: str, tmp_path: Path
) -> None:
    import filelock

    adapter = publish_adapter(tenant, "one-adapter")
    path = tmp_path / "locks" / tenant / f"{adapter}.lock"
    path.parent.mkdir(parents=True)
    with ThreadPoolExecutor(1) as other, filelock.FileLock(path), pytest.raises(Unavailable) as caught:
        other.submit(make_cache(lock_timeout_s=0.1).ensure, tenant, adapter).result()
    assert caught.value.code == "cache_busy"


@pytest.fixture
def claimed(tmp_path: Path) -> Iterator[int]:
    """The cache as the launcher leaves it."""
    descriptor = claim_and_clean(tmp_path, 10**9, set)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def three(publish_adapter: Publish, tenant: str) -> list[str]:
    return [publish_adapter(tenant, f"{name}-adapter") for name in ("old", "middle", "new")]


def room_for_two(make_adapter: Callable[[int], Path]) -> int:
    return int(2.5 * (make_adapter(0) / ADAPTER_WEIGHTS).stat().st_size)


def cached(folder: Path, tenant: str) -> set[str]:
    return {path.name for path in (folder / "adapters" / tenant).iterdir()}


@pytest.mark.usefixtures("claimed")
def test_what_was_not_used_for_longest_makes_room(
    make_cache: Make, make_adapter: Callable[[int], Path], three: list[str], tenant: str, tmp_path: Path
) -> None:
    old, middle, new = three
    forgotten: list[str] = []

    def forget(name: str) -> bool:
        forgotten.append(name)
        return True

    cache = make_cache(max_bytes=room_for_two(make_adapter), idle_s=0, forget=forget)
    for adapter in (old, middle):
        cache.ensure(tenant, adapter)
    cache.touch(tenant, old)
    folder = cache.ensure(tenant, new)
    assert cached(tmp_path, tenant) == {old, new}
    assert forgotten == [f"{tenant}/{middle}"]
    assert files_in(folder) == {MANIFEST, ADAPTER_CONFIG, ADAPTER_WEIGHTS}
    # It was handed out, and is not taken for one that was damaged while in use.
    cache.ensure(tenant, middle)
    assert cached(tmp_path, tenant) == {new, middle}


@pytest.mark.usefixtures("claimed")
@pytest.mark.parametrize("changes", [{"idle_s": 60}, {"idle_s": 0, "forget": lambda _name: False}])
def test_what_is_used_stays_and_the_new_one_comes_all_the_same(
    make_cache: Make,
    make_adapter: Callable[[int], Path],
    three: list[str],
    tenant: str,
    tmp_path: Path,
    changes: dict[str, Any],
) -> None:
    cache = make_cache(max_bytes=room_for_two(make_adapter), **changes)
    for adapter in three:
        cache.ensure(tenant, adapter)
    assert cached(tmp_path, tenant) == set(three)


@pytest.mark.usefixtures("claimed")
def test_a_full_disk_is_made_room_on_before_it_is_refused(
    make_cache: Make, three: list[str], tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is a fake: a real one that is nearly full cannot be had here."""
    cache = make_cache(idle_s=0, min_free_mib=0)
    size = sum(path.stat().st_size for path in cache.ensure(tenant, three[0]).iterdir())

    def usage(_path: Path) -> Any:
        used = sum(map(size_on_disk, (tmp_path / "adapters").glob("*/*")))
        return SimpleNamespace(free=int(1.5 * size) - used)

    monkeypatch.setattr("narrowcast_inference.cache.shutil.disk_usage", usage)
    cache.ensure(tenant, three[1])
    assert cached(tmp_path, tenant) == {three[1]}
    held = make_cache(idle_s=0, min_free_mib=0, forget=lambda _name: False)
    with pytest.raises(Unavailable) as caught:
        held.ensure(tenant, three[2])
    assert caught.value.code == "cache_full"


def test_nothing_makes_room_while_another_process_uses_the_cache(
    make_cache: Make,
    make_adapter: Callable[[int], Path],
    three: list[str],
    tenant: str,
    tmp_path: Path,
    claimed: int,
) -> None:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from narrowcast_inference.cleaning import claim_and_clean;"
            f"claim_and_clean(Path({str(tmp_path)!r}), 10**9, set); print('ready', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().endswith(b"ready\n")
        cache = make_cache(max_bytes=room_for_two(make_adapter), idle_s=0)
        for adapter in three:
            cache.ensure(tenant, adapter)
        assert cached(tmp_path, tenant) == set(three)
        other.communicate()
    cache.touch(tenant, three[0])
    # The other is gone: now there is room for two again.
    shutil.rmtree(tmp_path / "adapters" / tenant / three[2])
    fresh = make_cache(max_bytes=room_for_two(make_adapter), idle_s=0)
    fresh.ensure(tenant, three[2])
    assert cached(tmp_path, tenant) == {three[0], three[2]}


@pytest.mark.usefixtures("claimed")
def test_deleted_adapters_go_unless_they_are_used(
    make_cache: Make, three: list[str], tenant: str, tmp_path: Path
) -> None:
    _, middle, new = three
    cache = make_cache(idle_s=0, forget=lambda name: not name.endswith(middle))
    for adapter in three:
        cache.ensure(tenant, adapter)
    cache.remove_deleted(set)
    assert cached(tmp_path, tenant) == set(three), "an empty store was rather emptied"
    cache.remove_deleted(lambda: {(tenant, new)})
    assert cached(tmp_path, tenant) == {middle, new}

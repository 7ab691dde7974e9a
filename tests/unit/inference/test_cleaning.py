import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from narrowcast.errors import NotFound, Unavailable
from narrowcast_inference.cleaning import claim_and_clean, least_recently_used, size_on_disk


def adapter(cache: Path, name: str, size: int, used_at: float) -> Path:
    folder = cache / "adapters" / "clinic" / name
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"x" * size)
    os.utime(folder, (used_at, used_at))
    return folder


def everything() -> set[tuple[str, str]]:
    return {("clinic", name) for name in ("old", "middle", "new", "one")}


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    old, middle, new = (adapter(tmp_path, name, 100, at) for at, name in enumerate(("old", "middle", "new")))
    os.close(claim_and_clean(tmp_path, 200, everything))
    assert (old.exists(), middle.exists(), new.exists()) == (False, True, True)


def test_leftovers_of_a_killed_download_go(tmp_path: Path) -> None:
    leftovers = [adapter(tmp_path, name, 1, 5) for name in (".one.12.partial", ".one.12.trash")]
    kept = adapter(tmp_path, "one", 1, 1)
    os.close(claim_and_clean(tmp_path, 200, everything))
    assert not any(leftover.exists() for leftover in leftovers)
    assert kept.exists()


def test_nothing_goes_while_another_process_uses_the_cache(tmp_path: Path) -> None:
    kept = adapter(tmp_path, "one", 100, 1)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path;"
            "from narrowcast_inference.cleaning import claim_and_clean;"
            f"claim_and_clean(Path({str(tmp_path)!r}), 10**9, set);"
            "print('ready', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        os.close(claim_and_clean(tmp_path, 0, everything))
        assert kept.exists()
    finally:
        holder.kill()
        holder.communicate()
    os.close(claim_and_clean(tmp_path, 0, everything))
    assert not kept.exists()


def test_deleted_adapters_go_at_the_next_start(tmp_path: Path) -> None:
    kept, deleted = adapter(tmp_path, "one", 100, 1), adapter(tmp_path, "two", 100, 2)
    note = tmp_path / "adapters" / "clinic" / "note.txt"
    note.touch()
    os.close(claim_and_clean(tmp_path, 10**9, lambda: {("clinic", "one"), ("other", "two")}))
    assert (kept.exists(), deleted.exists(), note.exists()) == (True, False, True)


@pytest.mark.parametrize("error", [Unavailable("no answer"), NotFound("no bucket"), None])
def test_an_object_store_that_is_away_or_empty_takes_none_with_it(
    tmp_path: Path, error: Exception | None
) -> None:
    """They may be the last copies."""
    kept = adapter(tmp_path, "one", 100, 1)

    def nothing() -> set[tuple[str, str]]:
        if error is not None:
            raise error
        return set()

    os.close(claim_and_clean(tmp_path, 10**9, nothing))
    assert kept.exists()


def test_what_comes_and_goes_while_it_is_counted_is_no_fault(tmp_path: Path) -> None:
    """Of two adapters that are fetched at a time the one that makes room sees the other's folder renamed."""
    kept = adapter(tmp_path, "kept", 1, 1)
    over = threading.Event()

    def fetch_and_remove() -> None:
        while not over.is_set():
            adapter(tmp_path, ".new.12.partial", 1, 2).rename(kept.with_name("new"))
            shutil.rmtree(kept.with_name("new"))

    other = threading.Thread(target=fetch_and_remove)
    other.start()
    try:
        for _ in range(2000):
            assert {kept} <= set(least_recently_used(tmp_path)) <= {kept, kept.with_name("new")}
            assert sum(map(size_on_disk, kept.parent.iterdir())) >= 1
    finally:
        over.set()
        other.join()

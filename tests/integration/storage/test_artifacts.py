"""Artifacts on a real S3 server: whole or not at all, and never other bytes than were published."""

from pathlib import Path

import pytest

from narrowcast.artifacts import (
    CorruptArtifact,
    Manifest,
    discard,
    fetch,
    publish,
    read_file,
    read_manifest,
)
from narrowcast.errors import NotFound, Unavailable
from narrowcast.settings import StorageSettings
from narrowcast.storage import Bucket, Storage


@pytest.fixture
def bucket(s3: StorageSettings) -> Bucket:
    return Storage(s3).models


def test_published_and_fetched(bucket: Bucket, tenant: str, tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(b"x" * 20_000_000)
    files = {"a.txt": "текст".encode(), "sub/big.bin": tmp_path / "big.bin"}
    published = publish(bucket, f"{tenant}/one/", files, Manifest(id="one", tenant=tenant))
    assert read_manifest(bucket, f"{tenant}/one/", Manifest) == published
    assert read_file(bucket, f"{tenant}/one/", published, "a.txt") == "текст".encode()
    fetch(bucket, f"{tenant}/one/", published, tmp_path / "copy")
    assert (tmp_path / "copy" / "sub" / "big.bin").read_bytes() == b"x" * 20_000_000
    assert list(bucket.folders(f"{tenant}/")) == ["one"]
    assert bucket.delete_prefix(f"{tenant}/") == 3
    assert not bucket.exists(f"{tenant}/one/manifest.json")


def test_without_a_manifest_there_is_nothing(bucket: Bucket, tenant: str) -> None:
    bucket.put(f"{tenant}/half/a.txt", b"a")
    with pytest.raises(NotFound):
        read_manifest(bucket, f"{tenant}/half/", Manifest)


def test_what_could_not_be_discarded_whole_is_nothing_already(
    bucket: Bucket, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = f"{tenant}/one/"
    publish(bucket, prefix, {"a.txt": b"a", "z.txt": b"z"}, Manifest(id="one", tenant=tenant))
    publish(bucket, f"{tenant}/one-more/", {"a.txt": b"a"}, Manifest(id="one-more", tenant=tenant))

    def fail(_: object) -> int:
        raise Unavailable("away")

    with monkeypatch.context() as away:
        away.setattr(bucket, "delete_prefix", fail)
        with pytest.raises(Unavailable):
            discard(bucket, prefix)
    assert list(bucket.keys(prefix)) == [prefix + "a.txt", prefix + "z.txt"]
    discard(bucket, prefix)
    assert list(bucket.folders(f"{tenant}/")) == ["one-more"]


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_damaged_files_are_never_handed_out(bucket: Bucket, tenant: str, tmp_path: Path, damage: str) -> None:
    prefix = f"{tenant}/damaged/"
    files = {"a.txt": b"good", "b.txt": b"good"}
    published = publish(bucket, prefix, files, Manifest(id="damaged", tenant=tenant))
    if damage == "changed":
        bucket.put(prefix + "b.txt", b"evil")
    else:
        bucket.delete(prefix + "b.txt")
    with pytest.raises(CorruptArtifact):
        fetch(bucket, prefix, published, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left behind"


def test_a_manifest_cannot_write_outside(bucket: Bucket, tenant: str, tmp_path: Path) -> None:
    prefix = f"{tenant}/evil/"
    published = publish(bucket, prefix, {"a.txt": b"a"}, Manifest(id="evil", tenant=tenant))
    entry = published.files["a.txt"]
    climbing = published.model_copy(update={"files": {"../../escaped": entry}})
    with pytest.raises(CorruptArtifact):
        fetch(bucket, prefix, climbing, tmp_path / "in" / "copy")
    assert not list(tmp_path.rglob("escaped"))


def test_a_server_that_does_not_answer_is_unavailable(s3: StorageSettings) -> None:
    dead = Storage(s3.model_copy(update={"endpoint": "127.0.0.1:9"}))
    with pytest.raises(Unavailable):
        dead.data.get("x")
    with pytest.raises(Unavailable):
        dead.check()


def test_a_wrong_secret_is_refused(s3: StorageSettings) -> None:
    wrong = StorageSettings.model_validate({"endpoint": s3.endpoint, "secret_key": "wrong"})
    with pytest.raises(Unavailable) as refused:
        Storage(wrong).data.get("x")
    assert refused.value.code == "storage_refused"

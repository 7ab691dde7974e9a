"""All that the main line asks of an S3 server, on two makes of it."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from narrowcast.connections import Connections, connect
from narrowcast.errors import NotFound, Outage
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.settings import Settings, StorageSettings
from narrowcast.storage import Bucket, Storage
from narrowcast_gateway.corpora.janitor import DocumentJanitor
from narrowcast_gateway.settings import UploadSettings
from narrowcast_trainer.checkpoints import Checkpoints

MIB = 1024 * 1024


@pytest.fixture
def bucket(s3: StorageSettings) -> Bucket:
    return Storage(s3).data


@pytest.fixture
def opened(s3: StorageSettings, settings: Settings) -> Iterator[Connections]:
    connections = connect(settings.model_copy(update={"storage": s3}))
    connections.redis.flushdb()
    yield connections
    connections.redis.close()


def test_bytes_come_back(bucket: Bucket, tenant: str) -> None:
    bucket.put(f"{tenant}/a", b"one")
    bucket.put(f"{tenant}/a", b"two")
    bucket.put(f"{tenant}/empty", b"")
    assert bucket.get(f"{tenant}/a") == b"two"
    assert bucket.get(f"{tenant}/empty") == b""
    assert bucket.exists(f"{tenant}/a")
    assert not bucket.exists(f"{tenant}/b")


@pytest.mark.parametrize("key", ["missing", "a/missing", "a/b/below-an-object"])
def test_what_is_missing_is_not_found(bucket: Bucket, tenant: str, key: str) -> None:
    bucket.put(f"{tenant}/a/b", b"1")
    with pytest.raises(NotFound):
        bucket.get(f"{tenant}/{key}")
    with pytest.raises(NotFound):
        next(bucket.stream(f"{tenant}/{key}"))
    assert not bucket.exists(f"{tenant}/{key}")
    bucket.delete(f"{tenant}/{key}")


def test_a_large_object_goes_in_parts_and_comes_in_chunks(bucket: Bucket, tenant: str) -> None:
    data = bytes(range(256)) * (40 * MIB // 256)
    bucket.put_stream(f"{tenant}/large", io.BytesIO(data), len(data))
    chunks = list(bucket.stream(f"{tenant}/large"))
    assert max(map(len, chunks)) <= MIB
    assert b"".join(chunks) == data
    assert list(bucket.keys(f"{tenant}/")) == [f"{tenant}/large"], "no part is left to be seen"


def test_what_is_in_memory_is_written_in_one_request(
    bucket: Bucket, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that are never put together, since the writer died, stay where no listing shows them."""
    begun: list[str] = []
    begin = Minio._create_multipart_upload

    def noted(client: Minio, name: str, key: str, headers: Any) -> str:
        begun.append(key)
        return begin(client, name, key, headers)

    monkeypatch.setattr(Minio, "_create_multipart_upload", noted)
    bucket.put(f"{tenant}/whole", b"x" * 40 * MIB)
    assert begun == []
    assert len(bucket.get(f"{tenant}/whole")) == 40 * MIB
    bucket.put_stream(f"{tenant}/stream", io.BytesIO(b"x" * 40 * MIB), 40 * MIB)
    assert begun == [f"{tenant}/stream"]


def test_an_upload_that_breaks_leaves_what_was_there(bucket: Bucket, tenant: str) -> None:
    class Breaks(io.RawIOBase):
        left = 20 * MIB

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            if self.left <= 0:
                raise RuntimeError("the source broke")
            size = min(size, self.left)
            self.left -= size
            return b"x" * size

    bucket.put(f"{tenant}/kept", b"old")
    for name in ("kept", "new"):
        with pytest.raises(RuntimeError):
            bucket.put_stream(f"{tenant}/{name}", Breaks(), 40 * MIB)  # type: ignore[arg-type]
    assert bucket.get(f"{tenant}/kept") == b"old"
    assert list(bucket.keys(f"{tenant}/")) == [f"{tenant}/kept"]


def test_a_reader_may_stop_halfway(bucket: Bucket, tenant: str) -> None:
    bucket.put_stream(f"{tenant}/large", io.BytesIO(b"x" * 20 * MIB), 20 * MIB)
    for _ in range(20):  # more than the pool holds connections
        chunks = bucket.stream(f"{tenant}/large")
        assert next(chunks)
        chunks.close()  # type: ignore[attr-defined]
    assert bucket.exists(f"{tenant}/large")


def test_listing_by_prefix_and_by_folder(bucket: Bucket, tenant: str) -> None:
    names = ["a/1", "a/sub/2", "b/3", "top"]
    for name in names:
        bucket.put(f"{tenant}/{name}", b"x")
    assert list(bucket.keys(f"{tenant}/")) == [f"{tenant}/{name}" for name in names]
    assert list(bucket.folders(f"{tenant}/")) == ["a", "b"]
    assert tenant in bucket.folders("")
    assert list(bucket.keys(f"{tenant}/nothing/")) == []
    assert list(bucket.folders(f"{tenant}/nothing/")) == []
    assert 0 <= bucket.age_s(f"{tenant}/a/") + 1 < 60, "clocks may differ by the second S3 rounds to"
    assert bucket.age_s(f"{tenant}/nothing/") == float("inf")


def test_a_listing_longer_than_a_page(bucket: Bucket, tenant: str) -> None:
    keys = [f"{tenant}/{number:05d}" for number in range(1100)]  # S3 lists and deletes 1000 at a time
    for key in keys:
        bucket.put(key, b"x")
    assert list(bucket.keys(f"{tenant}/")) == keys
    assert bucket.delete_prefix(f"{tenant}/") == 1100
    assert list(bucket.keys(f"{tenant}/")) == []


def test_deleting_a_prefix_leaves_its_neighbours(bucket: Bucket, tenant: str) -> None:
    for name in ("a/1", "a/sub/2", "ab/3"):
        bucket.put(f"{tenant}/{name}", b"x")
    assert bucket.delete_prefix(f"{tenant}/a/") == 2
    assert bucket.delete_prefix(f"{tenant}/a/") == 0
    assert list(bucket.keys(f"{tenant}/")) == [f"{tenant}/ab/3"]
    assert list(bucket.folders(f"{tenant}/")) == ["ab"], "an emptied folder is no folder"


def test_checkpoints_newest_whole_one_first(s3: StorageSettings, tenant: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(Storage(s3).models, tenant, "job", keep=2)
    folder = tmp_path / "step"
    folder.mkdir()
    for step in (5, 10, 15):
        (folder / "state").write_text(str(step))
        checkpoints.save(folder, step, seconds=step)
    Storage(s3).models.put(f"checkpoints/{tenant}/job/step-00000020/state", b"half of one")
    newest = checkpoints.fetch_newest(tmp_path / "resumed")
    assert newest is not None
    assert (newest.step, (newest.folder / "state").read_text()) == (15, "15")
    kept = list(Storage(s3).models.folders(f"checkpoints/{tenant}/job/"))
    assert kept == ["step-00000010", "step-00000015"], (
        "the half is gone, or it would look newer than what comes"
    )


def test_ended_jobs_are_archived(opened: Connections, tenant: str) -> None:
    job = Job(id=f"corpus-{tenant}", kind=JobKind.PREPROCESSING, tenant=tenant, spec={})
    opened.jobs.submit(job)
    opened.jobs.claim(job.id, "worker")
    opened.jobs.finish(job.id, "worker", JobStatus.SUCCEEDED, result={"rows": 1})
    assert opened.jobs.archive_ended() == 1
    opened.redis.delete(f"nc:job:{job.id}")
    assert opened.jobs.get(job.id, tenant=tenant).result == {"rows": 1}


def test_originals_go_when_their_job_has_ended(opened: Connections, tenant: str) -> None:
    documents = opened.storage.documents
    for name, ended in (("ended", True), ("queued", False)):
        job = Job(id=f"corpus-{name}-{tenant}", kind=JobKind.PREPROCESSING, tenant=tenant, spec={})
        documents.put(f"{tenant}/{job.id}/upload-00000", b"x")
        opened.jobs.submit(job)
        if ended:
            opened.jobs.claim(job.id, "worker")
            opened.jobs.finish(job.id, "worker", JobStatus.SUCCEEDED)
    DocumentJanitor(opened, UploadSettings()).sweep()
    assert list(documents.folders(f"{tenant}/")) == [f"corpus-queued-{tenant}"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda storage: storage.check(),
        lambda storage: storage.data.get("a/b"),
        lambda storage: next(storage.data.stream("a/b")),
        lambda storage: list(storage.data.keys("a/")),
        lambda storage: list(storage.data.folders("a/")),
        lambda storage: storage.data.age_s("a/"),
        lambda storage: storage.data.delete("a/b"),
        lambda storage: storage.data.delete_prefix("a/"),
    ],
)
def test_a_bucket_that_is_missing_is_an_outage(s3: StorageSettings, ask: Callable[[Storage], object]) -> None:
    """Not said of the object that was asked for: a job goes on when somebody has brought the bucket back."""
    elsewhere = Storage(s3.model_copy(update={"data_bucket": "narrowcast-nowhere"}))
    with pytest.raises(Outage, match=r"bucket narrowcast-nowhere does not exist .*provisioning") as missing:
        ask(elsewhere)
    assert missing.value.code == "storage_unavailable"
    Storage(s3).check()
    Storage(s3).create_buckets()


def test_no_bucket_is_written_to(rclone_settings: StorageSettings) -> None:
    """As MinIO and AWS answer; SeaweedFS makes the bucket."""
    elsewhere = Storage(rclone_settings.model_copy(update={"data_bucket": "narrowcast-nowhere"}))
    with pytest.raises(Outage, match="bucket narrowcast-nowhere does not exist"):
        elsewhere.data.put("a/b", b"x")

"""Write-once sets of files in S3: datasets, adapters, checkpoints, evaluations.

Files go first, ``manifest.json`` (the sha256 of each) last: what has no manifest does not
exist, so a reader never sees half of one, whatever died while it was written.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from narrowcast.errors import NarrowcastError, NotFound
from narrowcast.storage import Bucket

MANIFEST = "manifest.json"


class CorruptArtifact(NarrowcastError):
    """What came from the object store is not what its manifest says."""

    code = "corrupt_artifact"


class FileEntry(BaseModel):
    """One file of an artifact."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Manifest(BaseModel):
    """What every artifact says of itself; kinds of artifacts add their own fields."""

    id: str
    tenant: str
    created_at: float = Field(default_factory=time.time)
    """Unix time, seconds."""
    files: dict[str, FileEntry] = Field(default_factory=dict)
    """By name relative to the manifest."""


M = TypeVar("M", bound=Manifest)


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256 as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def publish(bucket: Bucket, prefix: str, files: Mapping[str, Path | bytes], manifest: M) -> M:
    """Upload ``files``, then the manifest with their checksums; return the manifest as written.

    Args:
        bucket: where to.
        prefix: ends in ``/``; a fresh one, because an artifact is never written twice.
        files: content by name relative to ``prefix``.
        manifest: its ``files`` are filled in here.
    """
    entries: dict[str, FileEntry] = {}
    for name, content in files.items():
        if isinstance(content, bytes):
            entries[name] = FileEntry(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
            bucket.put(prefix + name, content)
        else:
            entries[name] = FileEntry(sha256=sha256_of(content), size=content.stat().st_size)
            with content.open("rb") as stream:
                bucket.put_stream(prefix + name, stream, entries[name].size)
    written = manifest.model_copy(update={"files": entries})
    bucket.put(prefix + MANIFEST, written.model_dump_json(indent=1).encode(), "application/json")
    return written


def read_manifest(bucket: Bucket, prefix: str, kind: type[M]) -> M:
    """Return the artifact's manifest.

    Raises:
        NotFound: no manifest, hence no artifact.
        CorruptArtifact: it does not parse.
    """
    raw = bucket.get(prefix + MANIFEST)
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise CorruptArtifact(f"the manifest under {prefix} does not parse") from error


def read_file(bucket: Bucket, prefix: str, manifest: Manifest, name: str) -> bytes:
    """Return one file of the artifact, verified.

    Raises:
        NotFound: the artifact has no such file.
        CorruptArtifact: the bytes are not those that were published.
    """
    entry = manifest.files.get(name)
    if entry is None:
        raise NotFound(f"{manifest.id} has no file {name}")
    data = bucket.get(prefix + name)
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise CorruptArtifact(f"{name} of {manifest.id} does not match its checksum", param=name)
    return data


def discard(bucket: Bucket, prefix: str) -> int:
    """Delete an artifact, or what there is of one: its manifest first, so that nobody finds half of it.

    Returns:
        How many objects there were beside the manifest.

    Raises:
        Unavailable: something is left; trying again is safe.
    """
    bucket.delete(prefix + MANIFEST)
    return bucket.delete_prefix(prefix)


def fetch(bucket: Bucket, prefix: str, manifest: Manifest, destination: Path) -> None:
    """Download and verify every file into ``destination``, which appears whole or not at all.

    Raises:
        CorruptArtifact: a file is missing or does not match its checksum.
    """
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name, entry in manifest.files.items():
            path = partial / name
            if not path.resolve().is_relative_to(partial.resolve()):
                raise CorruptArtifact(f"{manifest.id} names a file outside itself")
            path.parent.mkdir(parents=True, exist_ok=True)
            _download_verified(bucket, prefix + name, path, entry, manifest.id)
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=1))
        partial.rename(destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _download_verified(bucket: Bucket, key: str, path: Path, entry: FileEntry, artifact: str) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("wb") as file:
            for chunk in bucket.stream(key):
                size += len(chunk)
                if size > entry.size:
                    break  # another object than was published: do not fill the disk with it
                digest.update(chunk)
                file.write(chunk)
    except NotFound as error:
        raise CorruptArtifact(f"{path.name} of {artifact} is missing", param=path.name) from error
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise CorruptArtifact(f"{path.name} of {artifact} does not match its checksum", param=path.name)

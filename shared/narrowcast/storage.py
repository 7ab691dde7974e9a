"""Objects in any S3 server, through the ``minio`` SDK.

The one place that speaks S3. What it raises is ours: :class:`NotFound` for a missing
object, :class:`Unavailable` for a server that does not answer.
"""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, S3Error, ServerError

from narrowcast.errors import NotFound, Unavailable
from narrowcast.settings import StorageSettings

_MISSING = {"NoSuchKey", "NoSuchObject", "NoSuchBucket", "NoSuchVersion"}
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
_PART_SIZE = 16 * 1024 * 1024
_CHUNK = 1024 * 1024


@contextmanager
def _our_errors(what: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        if error.code in _MISSING:
            raise NotFound(f"{what} does not exist") from error
        raise Unavailable(f"the object store refused {what}: {error.code}", code="storage_refused") from error
    except (urllib3.exceptions.HTTPError, InvalidResponseError, ServerError, OSError) as error:
        raise Unavailable("the object store does not answer", code="storage_unavailable") from error


class Bucket:
    """One bucket. Keys are ours (ids), never a user's file name."""

    def __init__(self, client: Minio, name: str) -> None:
        self._client = client
        self.name = name

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Write ``data`` at ``key``; the object appears whole or not at all."""
        with _our_errors(key):
            self._client.put_object(self.name, key, io.BytesIO(data), len(data), content_type)

    def put_stream(self, key: str, stream: BinaryIO, length: int) -> None:
        """Write ``length`` bytes of ``stream`` at ``key``, in parts if large."""
        with _our_errors(key):
            self._client.put_object(self.name, key, stream, length, part_size=_PART_SIZE)

    def get(self, key: str) -> bytes:
        """Return the object's bytes.

        Raises:
            NotFound: there is no such object.
        """
        with _our_errors(key):
            response = self._client.get_object(self.name, key)
            try:
                data: bytes = response.read()
            finally:
                response.close()
                response.release_conn()
            return data

    def stream(self, key: str) -> Iterator[bytes]:
        """Yield the object in chunks of at most 1 MiB.

        Raises:
            NotFound: there is no such object (at the first chunk).
        """
        with _our_errors(key):
            response = self._client.get_object(self.name, key)
            try:
                yield from response.stream(_CHUNK)
            finally:
                response.close()
                response.release_conn()

    def download(self, key: str, path: Path) -> None:
        """Write the object to ``path``.

        Raises:
            NotFound: there is no such object.
        """
        with path.open("wb") as file:
            for chunk in self.stream(key):
                file.write(chunk)

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            with _our_errors(key):
                self._client.stat_object(self.name, key)
        except NotFound:
            return False
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key under ``prefix``, in order."""
        with _our_errors(prefix):
            for entry in self._client.list_objects(self.name, prefix, recursive=True):
                yield entry.object_name

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names directly under ``prefix`` (which ends in ``/``) that have objects below them."""
        with _our_errors(prefix):
            for entry in self._client.list_objects(self.name, prefix, recursive=False):
                if entry.is_dir:
                    yield entry.object_name[len(prefix) :].rstrip("/")

    def age_s(self, prefix: str) -> float:
        """Return the age in seconds of the youngest object under ``prefix``; infinite if there is none."""
        with _our_errors(prefix):
            entries = self._client.list_objects(self.name, prefix, recursive=True)
            written = [entry.last_modified.timestamp() for entry in entries]
        return time.time() - max(written) if written else float("inf")

    def delete(self, key: str) -> None:
        """Delete one object; deleting what is not there is no error."""
        with _our_errors(key):
            self._client.remove_object(self.name, key)

    def delete_prefix(self, prefix: str) -> int:
        """Delete everything under ``prefix`` and return how many objects that was.

        Raises:
            Unavailable: some objects could not be deleted; trying again is safe.
        """
        keys = list(self.keys(prefix))
        with _our_errors(prefix):
            errors = list(self._client.remove_objects(self.name, [DeleteObject(key) for key in keys]))
        if errors:
            raise Unavailable(
                f"{len(errors)} objects under {prefix} were not deleted", code="storage_refused"
            )
        return len(keys)


class Storage:
    """The three buckets (see :class:`~narrowcast.settings.StorageSettings`)."""

    def __init__(self, settings: StorageSettings) -> None:
        self._client = Minio(
            settings.endpoint,
            access_key=settings.access_key,
            secret_key=settings.secret_key.get_secret_value(),
            secure=settings.secure,
            region=settings.region,
            http_client=urllib3.PoolManager(
                timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_S, read=_READ_TIMEOUT_S),
                maxsize=16,
                retries=urllib3.Retry(total=2, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504)),
            ),
        )
        self.documents = Bucket(self._client, settings.documents_bucket)
        self.data = Bucket(self._client, settings.data_bucket)
        self.models = Bucket(self._client, settings.models_bucket)

    @property
    def buckets(self) -> tuple[Bucket, Bucket, Bucket]:
        """All three."""
        return self.documents, self.data, self.models

    def create_buckets(self) -> None:
        """Create what is missing (local stack, tests; in a cluster an administrator does it)."""
        for bucket in self.buckets:
            with _our_errors(bucket.name):
                if not self._client.bucket_exists(bucket.name):
                    self._client.make_bucket(bucket.name)

    def check(self) -> None:
        """Ask the server for the data bucket.

        Raises:
            Unavailable: no answer, or the bucket is missing.
        """
        with _our_errors(self.data.name):
            if not self._client.bucket_exists(self.data.name):
                raise Unavailable(f"bucket {self.data.name} does not exist", code="storage_unavailable")

"""Objects in any S3 server, through the ``minio`` SDK.

The one place that speaks S3. What it raises is ours: :class:`NotFound` for a missing
object, :class:`Outage` with ``storage_unavailable`` for a server that does not answer or fails, or has lost a
bucket, :class:`Unavailable` with ``storage_full`` for one whose disk is full, with ``storage_refused`` for
one that refuses the key. A refusal is no error of its own: it passes when a key is rotated or a policy is
written a moment later, and a job whose attempts are used up fails with its code.
"""

import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final

import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, S3Error, ServerError

from narrowcast.errors import NotFound, Outage, Unavailable
from narrowcast.settings import StorageSettings

_MISSING = {"NoSuchKey", "NoSuchObject", "NoSuchVersion"}
_NO_BUCKET = "NoSuchBucket"
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
_FULL = {"XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage", "QuotaExceeded"}
_AWAY = {"InternalError", "ServiceUnavailable", "SlowDown", "XMinioServerNotInitialized", "InvalidResponse"}
"""Nothing that is said of the request: a server that starts, is overloaded, or stands behind a proxy."""
_NO_ANSWER: Final = (
    "the object store does not answer: see whether it is up and can be reached; jobs that failed meanwhile"
    " can be submitted again"
)
_CODE_IN_BODY = re.compile(r"<Code>(\w+)</Code>")
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
_PART_SIZE: Final = 16 * 1024 * 1024
"""Of what is written from a stream. The SDK by itself would take 5 MiB."""
_CHUNK = 1024 * 1024


@contextmanager
def _our_errors(bucket: str, what: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        raise _error(bucket, what, error.code or "") from error
    except InvalidResponseError as error:
        # The SDK reads errors of the type application/xml only; rclone's server says text/xml.
        raise _error(bucket, what, error_code(str(error)) or "InvalidResponse") from error
    except (urllib3.exceptions.HTTPError, ServerError, OSError) as error:
        raise Outage(_NO_ANSWER, code="storage_unavailable") from error


def error_code(answer: str) -> str | None:
    """Return the code in the XML of an S3 or IAM error."""
    found = _CODE_IN_BODY.search(answer)
    return found[1] if found else None


def _error(bucket: str, what: str, reason: str) -> NotFound | Unavailable:
    if reason == _NO_BUCKET:
        return _no_bucket(bucket)
    if reason in _MISSING:
        return NotFound(f"{what} does not exist")
    if reason in _REFUSED:
        hint = "see whether the service's key is right and its policies are up to date"
        return Unavailable(f"the object store refused {what}: {reason} ({hint})", code="storage_refused")
    if reason in _FULL:
        return Unavailable(
            "the object store is full: free some space in it, or add some", code="storage_full"
        )
    # All that SeaweedFS and rclone's server say when their disk is full.
    space = ", and at the free space on its disk" if reason == "InternalError" else ""
    kind = Outage if reason in _AWAY else Unavailable
    message = f"the object store failed at {what}: {reason} (look at its log{space})"
    return kind(message, code="storage_unavailable")


def _no_bucket(name: str) -> Outage:
    # No NotFound, which says of one object that it was never written, and ends a job for good.
    return Outage(
        f"bucket {name} does not exist in the object store: create it (python -m"
        " narrowcast_gateway.provisioning) or restore it from a backup",
        code="storage_unavailable",
    )


def create_client(settings: StorageSettings) -> Minio:
    """Return the SDK's client, with time limits. A region is given: no request is needed to find it."""
    return Minio(
        settings.endpoint,
        access_key=settings.access_key,
        secret_key=settings.secret_key.get_secret_value(),
        secure=settings.secure,
        region=settings.region,
        http_client=create_http_client(),
    )


def create_http_client() -> urllib3.PoolManager:
    """Return a connection pool for a client of the object store."""
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT_S, read=_READ_TIMEOUT_S),
        maxsize=16,
        # Without raise_on_status the last answer is read, which may say what is wrong.
        retries=urllib3.Retry(
            total=2, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504), raise_on_status=False
        ),
    )


class Bucket:
    """One bucket. Keys are ours (ids), never a user's file name."""

    def __init__(self, client: Minio, name: str) -> None:
        self._client = client
        self.name = name

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Write ``data`` at ``key``; the object appears whole or not at all."""
        with _our_errors(self.name, key):
            stream, size = io.BytesIO(data), len(data)
            # In one request: of what is in memory as a whole no parts are left if we die meanwhile.
            part_size = max(size, _PART_SIZE)
            self._client.put_object(self.name, key, stream, size, content_type, part_size=part_size)

    def put_stream(self, key: str, stream: BinaryIO, length: int) -> None:
        """Write ``length`` bytes of ``stream`` at ``key``, in parts if large."""
        with _our_errors(self.name, key):
            self._client.put_object(self.name, key, stream, length, part_size=_PART_SIZE)

    def get(self, key: str) -> bytes:
        """Return the object's bytes.

        Raises:
            NotFound: there is no such object.
        """
        with _our_errors(self.name, key):
            response = self._client.get_object(self.name, key)
            try:
                data: bytes = response.read()
            finally:
                response.close()
                response.release_conn()
            return data

    def stream(self, key: str, start: int = 0, length: int = 0) -> Iterator[bytes]:
        """Yield the object in chunks of at most 1 MiB.

        Args:
            key: its key.
            start: the first byte wanted.
            length: how many are wanted from there; 0: all.

        Raises:
            NotFound: there is no such object (at the first chunk).
        """
        with _our_errors(self.name, key):
            response = self._client.get_object(self.name, key, start, length)
            try:
                yield from response.stream(_CHUNK)
            finally:
                response.close()
                response.release_conn()

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        try:
            with _our_errors(self.name, key):
                self._client.stat_object(self.name, key)
        except NotFound:
            return False
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key under ``prefix``, in order."""
        with _our_errors(self.name, prefix):
            for entry in self._client.list_objects(self.name, prefix, recursive=True):
                yield entry.object_name

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names directly under ``prefix`` (which ends in ``/``) that have objects below them."""
        with _our_errors(self.name, prefix):
            for entry in self._client.list_objects(self.name, prefix, recursive=False):
                # SeaweedFS names the folder itself once all below it is gone.
                if entry.is_dir and entry.object_name != prefix:
                    yield entry.object_name[len(prefix) :].rstrip("/")

    def age_s(self, prefix: str) -> float:
        """Return the age in seconds of the youngest object under ``prefix``; infinite if there is none."""
        with _our_errors(self.name, prefix):
            entries = self._client.list_objects(self.name, prefix, recursive=True)
            written = [entry.last_modified.timestamp() for entry in entries]
        return time.time() - max(written) if written else float("inf")

    def delete(self, key: str) -> None:
        """Delete one object; deleting what is not there is no error."""
        with _our_errors(self.name, key):
            self._client.remove_object(self.name, key)

    def delete_prefix(self, prefix: str) -> int:
        """Delete everything under ``prefix`` and return how many objects that was.

        Raises:
            Unavailable: some objects could not be deleted; trying again is safe.
        """
        keys = list(self.keys(prefix))
        # SeaweedFS goes on listing an emptied folder until its own key is deleted. To others that is
        # no key, and rclone's server calls it an error.
        gone = keys + _folder_keys(prefix, keys)
        with _our_errors(self.name, prefix):
            answers = list(self._client.remove_objects(self.name, [DeleteObject(key) for key in gone]))
        errors = [answer for answer in answers if not (answer.name or "").endswith("/")]
        if errors:
            what = f"deleting {len(errors)} objects under {prefix}"
            raise _error(self.name, what, errors[0].code)
        return len(keys)


def _folder_keys(prefix: str, keys: list[str]) -> list[str]:
    """Return the keys of ``prefix`` and of the folders below it, the deepest first."""
    if not prefix.endswith("/"):
        return []
    folders = {prefix}
    for key in keys:
        below = key[len(prefix) :].split("/")[:-1]
        folders.update(prefix + "/".join(below[:depth]) + "/" for depth in range(1, len(below) + 1))
    return sorted(folders, key=len, reverse=True)


class Storage:
    """The three buckets (see :class:`~narrowcast.settings.StorageSettings`)."""

    def __init__(self, settings: StorageSettings) -> None:
        self._client = create_client(settings)
        self.documents = Bucket(self._client, settings.documents_bucket)
        self.data = Bucket(self._client, settings.data_bucket)
        self.models = Bucket(self._client, settings.models_bucket)

    @property
    def buckets(self) -> tuple[Bucket, Bucket, Bucket]:
        """All three."""
        return self.documents, self.data, self.models

    def create_buckets(self) -> None:
        """Create what is missing (the local stack, tests, provisioning: an administrator)."""
        for bucket in self.buckets:
            with _our_errors(bucket.name, bucket.name):
                if not self._client.bucket_exists(bucket.name):
                    self._client.make_bucket(bucket.name)

    def check(self) -> None:
        """Ask the server for the data bucket.

        Raises:
            Unavailable: no answer, or the bucket is missing.
        """
        with _our_errors(self.data.name, self.data.name):
            if not self._client.bucket_exists(self.data.name):
                raise _no_bucket(self.data.name)

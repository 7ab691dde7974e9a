"""A job that is submitted once, however often its request arrives.

A client that lost the answer to a request sends it again: openai's does so by itself, twice. A training
would run two times, a corpus of patients' documents be kept twice. So who asks may give the request a key
(the ``Idempotency-Key`` of IETF draft-ietf-httpapi-idempotency-key-header), and a repeated one gets the job
that the first made.
"""

from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO, Final, Self

from narrowcast.errors import InvalidInput
from narrowcast.jobs.records import JobKind

HEADER: Final = "Idempotency-Key"
REMEMBERED_S: Final = 24 * 3600
_CHUNK_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Once:
    """The key of a request, and what was asked for under it. Hashes: a key may be any text."""

    key: str
    content: str

    @classmethod
    def of(cls, key: str, *content: str | BinaryIO) -> Self:
        """Return it for a request of this content; files are read to their ends."""
        digest = sha256()
        for part in content:
            digest.update(_digest(part))
        return cls(sha256(key.encode()).hexdigest(), digest.hexdigest())

    def redis_key(self, kind: JobKind, tenant: str) -> str:
        """Return where the job is noted; neither another tenant nor another kind of job meets it."""
        return f"nc:jobs:once:{kind}:{tenant}:{self.key}"

    def note(self, job_id: str) -> str:
        """Return what is noted there."""
        return f"{self.content} {job_id}"

    def job_id(self, note: str) -> str:
        """Return the job that was noted.

        Raises:
            InvalidInput: ``idempotency_key_reused``, that request was another.
        """
        content, _, job_id = note.partition(" ")
        if content != self.content:
            raise InvalidInput(
                "the key was given to another request in the last 24 hours: a new request needs a new one",
                code="idempotency_key_reused",
                param=HEADER,
            )
        return job_id


def _digest(part: str | BinaryIO) -> bytes:
    # Of each part its own, so that where one ends and the next begins counts.
    if isinstance(part, str):
        return sha256(part.encode()).digest()
    digest = sha256()
    part.seek(0)
    while chunk := part.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.digest()

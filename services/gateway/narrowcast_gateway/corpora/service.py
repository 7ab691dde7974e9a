"""Accepts corpora: what can be refused is refused before anything is stored."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, Final

import redis
from pydantic import BaseModel, Field

from narrowcast import ids
from narrowcast.connections import Connections
from narrowcast.errors import InvalidInput, NotFound
from narrowcast.jobs.once import Once
from narrowcast.jobs.records import Job, JobKind
from narrowcast_gateway.corpora.uploads import Document, open_documents
from narrowcast_gateway.preprocessing.archive import ArchiveLimits
from narrowcast_gateway.preprocessing.reading import read_document
from narrowcast_gateway.preprocessing.sections import find_sections
from narrowcast_gateway.settings import UploadSettings

NO_USABLE_DOCUMENT: Final = "no_usable_document"
_PIECE_BYTES: Final = 16 * 1024 * 1024
"""Of an original, in the bucket; what a gateway has in memory of it at once."""
_PROBED = 20
"""Documents looked into before a corpus is accepted. A small corpus without a usable document
is refused at once; the background job finds out about a large one."""


class PreprocessingSpec(BaseModel):
    """The ``spec`` of a preprocessing job's record."""

    uploads: tuple[int, ...]
    """Bytes of each."""
    documents: int
    validation: float = Field(0.1, ge=0, lt=1)
    """Share of the rows."""
    test: float = Field(0.1, ge=0, lt=1)
    seed: int = 0


@dataclass(frozen=True)
class AcceptedCorpus:
    """A corpus whose job is queued."""

    job: Job
    uploaded: list[tuple[str, str]]
    """Id and file name of each document."""


def corpus_prefix(tenant: str, corpus_id: str) -> str:
    """Return the prefix of all that was uploaded for a corpus, in the documents bucket."""
    return f"{tenant}/{corpus_id}/"


def part_keys(tenant: str, corpus_id: str, number: int, size: int) -> list[str]:
    """Return the keys of an upload of ``size`` bytes.

    It lies there in pieces, each an object that one request writes. S3's own way of uploading in parts
    leaves them behind where no listing shows them when a gateway dies meanwhile, and nobody would delete a
    patient's document.
    """
    pieces = -(-size // _PIECE_BYTES)
    return [f"{corpus_prefix(tenant, corpus_id)}upload-{number:05d}.{piece:05d}" for piece in range(pieces)]


class Corpora:
    """A tenant's corpora."""

    def __init__(self, connections: Connections, settings: UploadSettings) -> None:
        self._jobs = connections.jobs
        self._bucket = connections.storage.documents
        self._limits = ArchiveLimits(max_files=settings.max_documents)

    def create(
        self,
        tenant: str,
        uploads: list[tuple[str, BinaryIO]],
        *,
        validation: float,
        test: float,
        seed: int,
        once: Once | None = None,
    ) -> AcceptedCorpus:
        """Check the uploads, store them and queue their preprocessing.

        Of a request that came before the corpus is returned that it made; nothing is stored.

        Raises:
            InvalidInput: a bad zip, or no document can be used; nothing is stored.
            TooLarge: too many documents.
        """
        if validation + test >= 1:
            raise InvalidInput("validation and test leave no rows for training", param="test")
        with open_documents(uploads, self._limits) as documents:
            _probe(documents)
            uploaded = [(document.id, document.filename) for document in documents]
        if (earlier := self._jobs.submitted(JobKind.PREPROCESSING, tenant, once)) is not None:
            return AcceptedCorpus(earlier, uploaded)
        corpus_id = ids.new_id(JobKind.PREPROCESSING)
        sizes = [source.seek(0, 2) for _, source in uploads]
        spec = PreprocessingSpec(
            uploads=tuple(sizes), documents=len(uploaded), validation=validation, test=test, seed=seed
        )
        try:
            for number, (_, source) in enumerate(uploads):
                source.seek(0)
                for key in part_keys(tenant, corpus_id, number, sizes[number]):
                    self._bucket.put(key, source.read(_PIECE_BYTES))
            job = Job(id=corpus_id, kind=JobKind.PREPROCESSING, tenant=tenant, spec=spec.model_dump())
            submitted = self._jobs.submit(job, once)
        except BaseException:
            if not self._may_be_recorded(corpus_id):
                self._bucket.delete_prefix(corpus_prefix(tenant, corpus_id))
            raise
        if submitted.id != corpus_id:  # the same request, sent twice at a time
            self._bucket.delete_prefix(corpus_prefix(tenant, corpus_id))
        return AcceptedCorpus(submitted, uploaded)

    def get(self, tenant: str, corpus_id: str) -> Job:
        """Return a corpus's job.

        Raises:
            NotFound: the tenant has no such corpus.
        """
        return self._jobs.get(corpus_id, tenant=tenant, kind=JobKind.PREPROCESSING)

    def page(self, tenant: str, after: str | None, limit: int) -> tuple[list[Job], bool]:
        """Return corpora, newest first, and whether more follow."""
        return self._jobs.page(JobKind.PREPROCESSING, tenant, after=after, limit=limit)

    def cancel(self, tenant: str, corpus_id: str) -> Job:
        """Stop preprocessing; the originals are deleted.

        Raises:
            NotFound: the tenant has no such corpus.
            Conflict: it has ended.
        """
        self.get(tenant, corpus_id)
        return self._jobs.request_cancel(corpus_id)

    def _may_be_recorded(self, corpus_id: str) -> bool:
        """Whether a job may need the originals: its record can be written and the answer be lost."""
        try:
            self._jobs.get(corpus_id)
        except NotFound:
            return False
        except redis.RedisError:
            return True  # nobody can say; the janitor deletes them in a day if there is no job
        return True


def _probe(documents: list[Document]) -> None:
    """Check that at least one document is usable, if there are few enough to look at all.

    Raises:
        InvalidInput: none is. A single document's own reason becomes the error's code.
    """
    reasons: list[InvalidInput] = []
    for document in documents[:_PROBED]:
        try:
            find_sections(read_document(document.read()).body)
            return
        except InvalidInput as rejected:
            reasons.append(rejected)
    if len(documents) > _PROBED:
        return
    if len(reasons) == 1:
        raise InvalidInput(reasons[0].message, code=reasons[0].code, param="files")
    message = none_usable(reason.code for reason in reasons)
    raise InvalidInput(message, code=NO_USABLE_DOCUMENT, param="files")


def none_usable(codes: Iterable[str]) -> str:
    """Return the message that no document can be used, with how many were rejected for which reason."""
    reasons = Counter(codes)
    counts = ", ".join(f"{count} {code}" for code, count in reasons.most_common())
    return f"none of the {reasons.total()} documents can be used: {counts}"

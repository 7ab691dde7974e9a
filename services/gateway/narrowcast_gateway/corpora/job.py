"""Preprocessing, on the CPU worker: originals in, a de-identified dataset out."""

import hashlib
import json
import tempfile
from collections import Counter
from contextlib import ExitStack
from functools import cache
from typing import Any, BinaryIO

from narrowcast import prompts
from narrowcast.datasets import SPLITS, DatasetManifest, Row, split_file, to_jsonl
from narrowcast.errors import NO_ROOM, InvalidInput, JobFailed, NotFound, Outage
from narrowcast.jobs.records import Job, JobKind
from narrowcast.jobs.running import RunningJob
from narrowcast.storage import Bucket
from narrowcast_gateway.corpora.service import NO_USABLE_DOCUMENT, PreprocessingSpec, none_usable, part_keys
from narrowcast_gateway.corpora.uploads import Document, open_documents
from narrowcast_gateway.datasets.service import DATASET
from narrowcast_gateway.preprocessing.archive import ArchiveLimits
from narrowcast_gateway.preprocessing.pipeline import DocumentProcessor
from narrowcast_gateway.preprocessing.splitting import SplitInput, split_rows
from narrowcast_gateway.services import Services

ACTIONS_LOG = "deidentification.jsonl"
"""What was removed from which document, as counts and hashes: the log that the law asks for
(152-FZ as amended, Roskomnadzor order 140 of 19.06.2025). Never values."""


@cache
def processor() -> DocumentProcessor:
    """Return this process's document processor; its models are loaded once."""
    return DocumentProcessor()


def preprocess(running: RunningJob, services: Services) -> dict[str, Any]:
    """Turn a corpus into a dataset; return what the corpus shows of it.

    Raises:
        JobFailed: code ``no_usable_document``.
        Outage: code ``disk_full``, of the worker's temporary folder.
    """
    try:
        return _preprocess(running, services)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = tempfile.gettempdir()
        raise Outage(
            f"no room in the worker's {where}: free some space, or give it some", code="disk_full"
        ) from error


def _preprocess(running: RunningJob, services: Services) -> dict[str, Any]:
    job = running.job
    spec = PreprocessingSpec.model_validate(job.spec)
    harvest = _Harvest()
    with ExitStack() as stack:
        uploads = _download(services.connections.storage.documents, job, spec, stack)
        limits = ArchiveLimits(max_files=spec.documents)
        for document in stack.enter_context(open_documents(uploads, limits)):
            harvest.add(document)
            running.progress(**_counts(spec, harvest))
    if not harvest.rows:
        # A failed job has no result; what it reported last is kept.
        running.progress(**_counts(spec, harvest), rejections=harvest.rejected)
        message = none_usable(rejected["code"] for rejected in harvest.rejected)
        raise JobFailed(message, code=NO_USABLE_DOCUMENT)
    manifest = _write_dataset(running, spec, harvest, services)
    return {
        "dataset": manifest.id,
        "documents": _counts(spec, harvest),
        "redactions": dict(harvest.redactions),
        "rejected": harvest.rejected,
    }


def _download(
    bucket: Bucket, job: Job, spec: PreprocessingSpec, stack: ExitStack
) -> list[tuple[str, BinaryIO]]:
    uploads: list[tuple[str, BinaryIO]] = []
    for number, size in enumerate(spec.uploads):
        # Unlinked from the start: nothing of a patient stays on this disk, however we die.
        file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        for key in part_keys(job.tenant, job.id, number, size):
            for chunk in bucket.stream(key):
                file.write(chunk)
        file.seek(0)
        uploads.append(("", file))
    return uploads


class _Harvest:
    """Rows, rejections and the log of actions, document by document."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.rejected: list[dict[str, Any]] = []
        self.redactions: Counter[str] = Counter()
        self.actions: list[dict[str, Any]] = []

    def add(self, document: Document) -> None:
        digest: str | None = None
        try:
            data = document.read()
            digest = hashlib.sha256(data).hexdigest()
            processed = processor().process(data)
        except InvalidInput as error:
            self.rejected.append(
                {"document": document.id, "sha256": digest, "code": error.code, "message": error.message}
            )
            return
        self.rows.append(
            Row(
                instruction=prompts.instruction_for(processed.study),
                input=processed.conclusion,
                output=processed.description,
                document=document.id,
            )
        )
        self.redactions.update(processed.redactions)
        self.actions.append(
            {
                "document": document.id,
                "sha256": digest,
                "reader": processed.reader,
                "redactions": processed.redactions,
            }
        )


def _counts(spec: PreprocessingSpec, harvest: _Harvest) -> dict[str, int]:
    return {"total": spec.documents, "read": len(harvest.rows), "rejected": len(harvest.rejected)}


def _write_dataset(
    running: RunningJob, spec: PreprocessingSpec, harvest: _Harvest, services: Services
) -> DatasetManifest:
    job = running.job
    split = split_rows(
        [
            SplitInput(row_id=str(index), document_id=row.document or "", text=row.output)
            for index, row in enumerate(harvest.rows)
        ],
        seed=spec.seed,
        validation=spec.validation,
        test=spec.test,
    )
    by_split = {name: [harvest.rows[int(row_id)] for row_id in getattr(split, name)] for name in SPLITS}
    manifest = DatasetManifest(
        id=dataset_id(job.id),
        tenant=job.tenant,
        source=job.id,
        rows={name: len(rows) for name, rows in by_split.items()},
        prompt_template=prompts.TEMPLATE_ID,
        instructions=dict(Counter(row.instruction for row in by_split["train"])),
        statistics={
            "documents": spec.documents,
            "rejected": len(harvest.rejected),
            "exact_duplicates": split.exact_duplicates,
            "near_duplicates": split.near_duplicates,
            **{f"redacted_{kind}": count for kind, count in harvest.redactions.items()},
        },
    )
    files = {split_file(name): to_jsonl(rows) for name, rows in by_split.items()}
    files[ACTIONS_LOG] = "".join(json.dumps(action) + "\n" for action in harvest.actions).encode()
    running.check()  # comparing thousands of reports takes a while
    try:
        return services.datasets.get(job.tenant, manifest.id)  # of an attempt that was lost after this
    except NotFound:
        return services.datasets.write(manifest, files)


def dataset_id(corpus_id: str) -> str:
    """Return the id of a corpus's dataset: one, however many attempts it takes to say that it is there."""
    return corpus_id.replace(JobKind.PREPROCESSING, DATASET, 1)

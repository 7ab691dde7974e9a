"""Uploaded training files: checked, then kept as a dataset with one split and the original bytes."""

from collections import Counter
from typing import BinaryIO

from narrowcast import ids, prompts
from narrowcast.datasets import DatasetManifest, split_file, to_jsonl
from narrowcast.errors import NotFound, TooLarge
from narrowcast_gateway.datasets.service import FILE, Datasets
from narrowcast_gateway.files.parsing import parse_rows

_ORIGINAL = "original"


class Files:
    """A tenant's training files."""

    def __init__(self, datasets: Datasets, max_bytes: int) -> None:
        self._datasets = datasets
        self._max_bytes = max_bytes

    def create(self, tenant: str, file: BinaryIO) -> DatasetManifest:
        """Check and store a file.

        Raises:
            TooLarge: ``file_too_large``; its rows would be several times as much in memory.
            InvalidInput: it is not a training file; nothing is stored.
        """
        data = file.read(self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise TooLarge(
                f"a training file may have {self._max_bytes} bytes", code="file_too_large", param="file"
            )
        rows = parse_rows(data)
        file_id = ids.new_id(FILE)
        manifest = DatasetManifest(
            id=file_id,
            tenant=tenant,
            source=file_id,
            rows={"train": len(rows)},
            prompt_template=prompts.TEMPLATE_ID,
            instructions=dict(Counter(row.instruction for row in rows)),
            statistics={"bytes": len(data)},
        )
        return self._datasets.write(manifest, {_ORIGINAL: data, split_file("train"): to_jsonl(rows)})

    def get(self, tenant: str, file_id: str) -> DatasetManifest:
        """Return a file's manifest.

        Raises:
            NotFound: the tenant has no such file; a dataset made from a corpus is none.
        """
        if not ids.is_object_id(file_id, FILE):
            raise NotFound("no such file")
        return self._datasets.get(tenant, file_id)

    def listing(self, tenant: str) -> list[DatasetManifest]:
        """Return the tenant's files, newest first."""
        return self._datasets.listing(tenant, FILE)

    def content(self, tenant: str, file_id: str) -> bytes:
        """Return the bytes as they were uploaded.

        Raises:
            NotFound: the tenant has no such file.
        """
        return self._datasets.file(self.get(tenant, file_id), _ORIGINAL)

    def delete(self, tenant: str, file_id: str) -> None:
        """Delete a file.

        Raises:
            NotFound: the tenant has no such file.
            Conflict: ``dataset_in_use``, a job that has not ended names it.
        """
        if not ids.is_object_id(file_id, FILE):
            raise NotFound("no such file")
        self._datasets.delete(tenant, file_id)

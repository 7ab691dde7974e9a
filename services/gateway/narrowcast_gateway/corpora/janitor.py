"""Deletes originals once their preprocessing has ended, however it ended."""

import threading
import time

from pydantic import ValidationError

from narrowcast import logs
from narrowcast.connections import Connections
from narrowcast.errors import NotFound
from narrowcast_gateway.corpora.service import corpus_prefix
from narrowcast_gateway.settings import UploadSettings

_log = logs.get(__name__)
_EVERY_S = 10.0
_ORPHAN_AGE_S = 24 * 3600.0


class DocumentJanitor:
    """A background thread; any number may run at once, since deleting twice is no harm.

    It looks at what lies in the bucket instead of being told by jobs: a job that failed, was
    cancelled in the queue or lost its worker leaves its originals behind all the same.
    """

    def __init__(self, connections: Connections, settings: UploadSettings) -> None:
        self._jobs = connections.jobs
        self._bucket = connections.storage.documents
        self._retention_s = settings.retention_h * 3600
        self._thread = threading.Thread(target=self._loop, name="document-janitor", daemon=True)

    def start(self) -> None:
        """Start sweeping."""
        self._thread.start()

    def _loop(self) -> None:
        while True:
            try:
                self.sweep()
            except Exception:  # noqa: BLE001 - nobody else deletes what has patients' names in it
                _log.warning("sweep_failed", exc_info=True)
            time.sleep(_EVERY_S)

    def sweep(self) -> int:
        """Delete what is due; return how many objects that was."""
        deleted = 0
        for tenant in self._bucket.folders(""):
            for corpus_id in self._bucket.folders(f"{tenant}/"):
                if self._due(tenant, corpus_id):
                    deleted += self._bucket.delete_prefix(corpus_prefix(tenant, corpus_id))
                    _log.info("originals_deleted", corpus=corpus_id)
        return deleted

    def _due(self, tenant: str, corpus_id: str) -> bool:
        try:
            job = self._jobs.get(corpus_id, tenant=tenant)
        except NotFound:
            # Uploaded, but the gateway died before it wrote the record. A young one may just
            # be on its way in.
            return self._bucket.age_s(corpus_prefix(tenant, corpus_id)) > _ORPHAN_AGE_S
        except ValidationError:
            # A newer version's. It knows when they are due; all others' originals go meanwhile.
            _log.warning("job_record_not_understood", job_id=corpus_id)
            return False
        return job.finished_at is not None and time.time() >= job.finished_at + self._retention_s

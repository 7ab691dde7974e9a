"""Picks up what was lost: jobs without a lease, messages without a worker, records to archive.

Every worker runs one. Each step is a compare-and-swap on the record, so any number of
reapers may run at once.
"""

import threading
import time

import redis
from kombu.exceptions import KombuError
from prometheus_client import Counter

from narrowcast import logs
from narrowcast.jobs.queue import QUEUES
from narrowcast.jobs.records import Job
from narrowcast.jobs.store import JobStore
from narrowcast.settings import JobSettings

_log = logs.get(__name__)
_NOT_THE_JOBS_FAULT = (redis.RedisError, KombuError, OSError)
_SWEEPS = Counter("narrowcast_reaper_sweeps", "Sweeps of this process's reaper.", ["outcome"])


class Reaper:
    """A background thread that calls :meth:`sweep` every ``settings.reap_every_s`` seconds."""

    def __init__(self, store: JobStore, settings: JobSettings) -> None:
        self._store = store
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="reaper", daemon=True)

    def start(self) -> None:
        """Start sweeping."""
        self._thread.start()

    def stop(self) -> None:
        """Stop and wait for the sweep in progress."""
        self._stop.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._stop.wait(self._settings.reap_every_s):
            try:
                self.sweep()
                _SWEEPS.labels("ok").inc()
            except Exception:  # noqa: BLE001 - without reapers lost jobs stay lost
                # A store is away, most likely; the next sweep finds everything as it was.
                _SWEEPS.labels("failed").inc()
                _log.warning("sweep_failed", exc_info=True)

    def sweep(self) -> None:
        """Look at every live job once, then archive the ended ones."""
        now = time.time()
        for job in self._store.active():
            try:
                self._look_at(job, now)
            except _NOT_THE_JOBS_FAULT:
                raise
            except Exception:  # noqa: BLE001 - of one job, whatever it is; the others are looked at
                _log.error("job_not_looked_at", job_id=job.id, exc_info=True)
        for kind in {queue: kind for kind, queue in QUEUES.items()}.values():
            self._store.balance_hints(kind)
        self._store.archive_ended()

    def _look_at(self, job: Job, now: float) -> None:
        if job.lease is not None and job.lease.expires_at < now:
            reaped = self._store.reap(job.id, now)
            if reaped is not None:
                _log.warning("job_reaped", job_id=job.id, status=reaped.status, attempt=reaped.attempt)

"""Metrics of all jobs, read from Redis when Prometheus asks.

The gateway's API process shows them: it is there when every worker is gone, which is when the
age of the oldest waiting job matters most. Each replica of it shows the same, system-wide
numbers, so queries take their ``max``, not their ``sum``.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import redis
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from redis.backoff import NoBackoff
from redis.retry import Retry

from narrowcast import logs
from narrowcast.jobs import counters
from narrowcast.jobs.counters import Requeue, kind_label
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.jobs.writing import active
from narrowcast.settings import RedisSettings

_log = logs.get(__name__)
_TIMEOUT_S: Final = 1.0
_DEADLINE_S: Final = 3.0
"""For everything, a name server that does not answer included. Prometheus waits 10 s by default."""
_ENDS: Final = [status for status in JobStatus if status.terminal]


@dataclass(frozen=True)
class _Snapshot:
    live: list[Job]
    counts: Mapping[str, str]


class JobMetrics(Collector):
    """Depth and age of the queue, running jobs, and the counts of :mod:`.counters`.

    Redis away gives ``narrowcast_redis_up 0`` and nothing else, within three seconds.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self._redis: Any = redis.Redis.from_url(
            settings.dsn,
            decode_responses=True,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        # Socket timeouts bound neither the look-up of Redis' name nor the sum of the steps.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="job-metrics")
        self._guard = threading.Lock()
        self._reading: Future[_Snapshot] | None = None

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without asking Redis."""
        return [_redis_up(0), *_live([], 0.0), *_counted({})]

    def collect(self) -> Iterator[Metric]:
        """Read Redis once."""
        try:
            snapshot = self._snapshot()
        except (redis.RedisError, OSError):
            _log.warning("job_metrics_unavailable", exc_info=True)
            yield _redis_up(0)
            return
        yield _redis_up(1)
        yield from _live(snapshot.live, time.time())
        yield from _counted(snapshot.counts)

    def _snapshot(self) -> _Snapshot:
        with self._guard:
            # Scrapes that meet share one reading, and one that hangs is not joined by others.
            if self._reading is None or self._reading.done():
                self._reading = self._thread.submit(self._read)
            reading = self._reading
        return reading.result(_DEADLINE_S)

    def _read(self) -> _Snapshot:
        return _Snapshot(active(self._redis), self._redis.hgetall(counters.KEY))


def _redis_up(value: int) -> Metric:
    return GaugeMetricFamily("narrowcast_redis_up", "Whether Redis answers the gateway.", value=value)


def _live(jobs: list[Job], now: float) -> Iterator[Metric]:
    live = GaugeMetricFamily("narrowcast_jobs", "Jobs that have not ended.", labels=["kind", "status"])
    oldest = GaugeMetricFamily(
        "narrowcast_job_oldest_queued_age_seconds",
        "How long the job that waits longest has waited since it might start; 0 if none does.",
        labels=["kind"],
    )
    for kind in JobKind:
        of_kind = [job for job in jobs if job.kind is kind]
        for status in (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED):
            live.add_metric([kind_label(kind), status], sum(job.status is status for job in of_kind))
        since = [job.due_at(now) for job in of_kind if job.waits(now)]
        oldest.add_metric([kind_label(kind)], now - min(since) if since else 0.0)
    yield live
    yield oldest


def _counted(counts: Mapping[str, str]) -> Iterator[Metric]:
    """Yield the counters; what never happened is 0 wherever its labels are known beforehand."""
    tables: dict[str, dict[tuple[str, ...], int]] = {}
    for name, value in counts.items():
        table, *labels = name.split("/")
        tables.setdefault(table, {})[tuple(labels)] = int(value)
    ended = {(kind_label(kind), status.value): 0 for kind in JobKind for status in _ENDS}
    requeued = {(kind_label(kind), reason.value): 0 for kind in JobKind for reason in Requeue}
    yield _counter(
        "narrowcast_jobs_ended",
        "Jobs by how they ended.",
        ["kind", "outcome"],
        ended | tables.get(counters.ENDED, {}),
    )
    yield _counter(
        "narrowcast_job_failures",
        "Failed jobs by the code of their error.",
        ["kind", "code"],
        tables.get(counters.FAILURES, {}),
    )
    yield _counter(
        "narrowcast_jobs_requeued",
        "Running jobs that went back to the queue.",
        ["kind", "reason"],
        requeued | tables.get(counters.REQUEUED, {}),
    )
    yield _counter(
        "narrowcast_documents_processed",
        "Documents of preprocessed corpora: read, or the code of their rejection.",
        ["outcome"],
        {(counters.READ,): 0} | tables.get(counters.DOCUMENTS, {}),
    )
    yield _durations(tables.get(counters.DURATIONS, {}), tables.get(counters.DURATION_MS, {}))


def _counter(
    name: str, help_: str, labels: list[str], values: Mapping[tuple[str, ...], int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(list(key), value)
    return family


def _durations(
    in_bucket: Mapping[tuple[str, ...], int], sums_ms: Mapping[tuple[str, ...], int]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        "narrowcast_job_duration_seconds",
        "From a job's first start to its end, waits between attempts included.",
        labels=["kind", "outcome"],
    )
    bounds = [*(str(bound) for bound in counters.DURATION_BOUNDS_S), counters.INFINITE]
    for key, sum_ms in sorted(sums_ms.items()):
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound in bounds:
            total += in_bucket.get((*key, bound), 0)
            buckets.append((bound, total))
        family.add_metric(list(key), buckets, sum_value=sum_ms / 1000)
    return family

"""Jobs to put into the store, and a Redis that refuses them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from narrowcast import ids
from narrowcast.connections import Connections
from narrowcast.jobs.queue import QUEUES
from narrowcast.jobs.records import Job, JobKind


def new_job(tenant: str, kind: JobKind = JobKind.TRAINING) -> Job:
    return Job(id=ids.new_id(kind), kind=kind, tenant=tenant, spec={})


@contextmanager
def refusing(connections: Connections) -> Iterator[None]:
    """Redis answers, and refuses every write: as with a full disk, without memory, or as a replica."""
    connections.redis.config_set("min-replicas-to-write", 1)
    try:
        yield
    finally:
        connections.redis.config_set("min-replicas-to-write", 0)


def queue_length(connections: Connections, kind: JobKind = JobKind.TRAINING) -> int:
    length: Any = connections.redis.llen(QUEUES[kind])
    return int(length)

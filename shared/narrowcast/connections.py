"""Opens what every service needs from its settings, in one place."""

from dataclasses import dataclass

import redis
from celery import Celery

from narrowcast.jobs.queue import CeleryQueue, create_celery
from narrowcast.jobs.store import JobStore
from narrowcast.settings import Settings
from narrowcast.storage import Storage

_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Connections:
    """Live connections of one process. Made after a fork, never before."""

    redis: redis.Redis
    storage: Storage
    celery: Celery
    jobs: JobStore


def connect(settings: Settings, celery: Celery | None = None) -> Connections:
    """Return connections; nothing is sent yet, so a store that is down shows at the first use."""
    client: redis.Redis = redis.Redis.from_url(
        settings.redis.dsn,
        decode_responses=True,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        health_check_interval=30,
    )
    storage = Storage(settings.storage)
    app = celery or create_celery(settings.redis)
    jobs = JobStore(client, storage.data, CeleryQueue(app), settings.jobs)
    return Connections(redis=client, storage=storage, celery=app, jobs=jobs)

"""Celery as a carrier of job ids.

Messages are acknowledged early: the record's lease, not Celery's visibility timeout, decides
when a job is lost, because a training job outlives any sane timeout.
"""

from typing import Final, Protocol

from celery import Celery

from narrowcast.jobs.records import Job, JobKind
from narrowcast.settings import RedisSettings

CPU_QUEUE: Final = "cpu"
GPU_QUEUE: Final = "gpu"
TASKS: Final[dict[JobKind, str]] = {
    JobKind.PREPROCESSING: "narrowcast.preprocess",
    JobKind.TRAINING: "narrowcast.train",
    JobKind.EVALUATION: "narrowcast.evaluate",
    JobKind.EXPORT: "narrowcast.export",
}
QUEUES: Final[dict[JobKind, str]] = {
    JobKind.PREPROCESSING: CPU_QUEUE,
    JobKind.TRAINING: GPU_QUEUE,
    JobKind.EVALUATION: CPU_QUEUE,
    # Where the base models are. It needs no GPU, so the inference server beside it goes on serving.
    JobKind.EXPORT: GPU_QUEUE,
}


IN_LINE: Final = frozenset({JobKind.TRAINING, JobKind.EXPORT})
"""Kinds whose workers take whichever job is first in line (see :mod:`.line`). A message of another
kind is for the job that it names. A queue carries either sort, never both."""


def in_same_queue(one: JobKind, other: JobKind) -> bool:
    """Whether jobs of two kinds wait in one line."""
    return QUEUES[one] == QUEUES[other]


class JobQueue(Protocol):
    """What the job store needs of a queue."""

    def send(self, job: Job) -> None:
        """Hint to a worker that the job is there."""

    def depth(self, kind: JobKind) -> int:
        """Return how many messages wait in the queue of this kind of job."""

    def drop(self, kind: JobKind, count: int) -> None:
        """Take up to ``count`` messages out of the queue of this kind of job."""


def create_celery(settings: RedisSettings) -> Celery:
    """Return a Celery application on our broker, without tasks."""
    app = Celery("narrowcast", broker=settings.dsn, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        # One message at a time: a job waiting behind a training run belongs to another worker.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        task_default_queue=CPU_QUEUE,
        task_routes={TASKS[kind]: {"queue": QUEUES[kind]} for kind in JobKind},
        # Fail fast when the broker is away: the record is written, the reaper sends again.
        broker_transport_options={"socket_connect_timeout": 5, "socket_timeout": 30},
    )
    if settings.dsn.startswith("rediss:"):
        # Left to itself, kombu takes any certificate, and sends the password to whoever shows one.
        app.conf.broker_use_ssl = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    return app


class CeleryQueue:
    """A :class:`JobQueue` on Celery."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def send(self, job: Job) -> None:
        """Send the job's id to its queue."""
        self._app.send_task(TASKS[job.kind], args=[job.id], queue=QUEUES[job.kind], retry=False)

    def depth(self, kind: JobKind) -> int:
        """Return the length of the Redis list behind the queue; running jobs are not in it."""
        with self._app.connection_for_read() as connection:
            channel = connection.default_channel
            return int(channel.client.llen(QUEUES[kind]))

    def drop(self, kind: JobKind, count: int) -> None:
        """Take messages off the end that is read last."""
        with self._app.connection_for_write() as connection:
            connection.default_channel.client.lpop(QUEUES[kind], count)

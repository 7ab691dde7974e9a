"""What the workers of all services have in common: a Celery worker that stops well and logs as we do."""

import os
import signal

from celery import Celery, signals

from narrowcast.jobs.queue import create_celery
from narrowcast.jobs.stopping import StopRequest, set_parent_death_signal
from narrowcast.settings import RedisSettings


def create_worker_app(settings: RedisSettings) -> tuple[Celery, StopRequest]:
    """Return a Celery application without tasks, and what says that the worker was told to stop.

    On SIGTERM Celery waits without limit for the running task: tasks have to look at the
    request, end soon, and give their job back.
    """
    app = create_celery(settings)
    # Celery would put a logger of its own on stdout and stderr.
    app.conf.update(worker_redirect_stdouts=False)
    stop = StopRequest()

    @signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
    def keep_our_logging(**_: object) -> None:
        """Celery leaves logging alone when somebody listens to this signal."""

    @signals.worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def prepare_pool_process(**_: object) -> None:
        # Its main process gone, a pool process must not go on alone: SIGTERM ends its job well.
        set_parent_death_signal(signal.SIGTERM)

    @signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def pass_on_shutdown(**_: object) -> None:
        stop.set()

    return app, stop


def run_worker_app(app: Celery, *, name: str, queue: str, concurrency: int, log_level: str) -> int:
    """Run the worker until SIGTERM; return the exit status."""
    try:
        app.worker_main(
            [
                "--quiet",
                "worker",
                "--pool=prefork",
                f"--concurrency={concurrency}",
                f"--queues={queue}",
                f"--hostname={name}-{os.getpid()}@%h",
                "--without-gossip",
                "--without-mingle",
                f"--loglevel={log_level}",
            ]
        )
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    return 0

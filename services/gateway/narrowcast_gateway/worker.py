"""The CPU worker: preprocessing and evaluation, ``python -m narrowcast_gateway.worker``."""

import signal
import sys
from functools import cache

from celery import Celery, signals

from narrowcast import logs
from narrowcast.connections import connect
from narrowcast.jobs.queue import CPU_QUEUE, TASKS, create_celery
from narrowcast.jobs.reaper import Reaper
from narrowcast.jobs.records import JobKind
from narrowcast.jobs.running import Handler, RunningJob, run_job
from narrowcast.jobs.stopping import StopRequest, set_parent_death_signal
from narrowcast_gateway.corpora.janitor import DocumentJanitor
from narrowcast_gateway.corpora.job import preprocess
from narrowcast_gateway.evaluation.job import evaluate
from narrowcast_gateway.services import Services, create_http_client, create_services
from narrowcast_gateway.settings import GatewaySettings


def create_worker(settings: GatewaySettings) -> Celery:
    """Return the Celery application with its tasks.

    Connections are opened in the process that runs the tasks, never before the fork.
    """
    app = create_celery(settings.redis)
    # Celery would put a logger of its own on stdout and stderr.
    app.conf.update(worker_redirect_stdouts=False)
    stop = StopRequest()

    @cache
    def services() -> Services:
        return create_services(settings, connect(settings, app), create_http_client(settings))

    def run(job_id: str, handler: Handler) -> None:
        with stop.on_sigterm():
            run_job(services().connections.jobs, settings.jobs, job_id, handler, stop.is_set)

    @app.task(name=TASKS[JobKind.PREPROCESSING])  # type: ignore[untyped-decorator]
    def preprocess_corpus(job_id: str) -> None:
        run(job_id, lambda running: preprocess(running, services()))

    @app.task(name=TASKS[JobKind.EVALUATION])  # type: ignore[untyped-decorator]
    def run_evaluation(job_id: str) -> None:
        def handler(running: RunningJob) -> dict[str, object]:
            return evaluate(running, services(), settings)

        run(job_id, handler)

    @signals.setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
    def keep_our_logging(**_: object) -> None:
        """Celery leaves logging alone when somebody listens to this signal."""

    @signals.worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def prepare_pool_process(**_: object) -> None:
        # Its main process gone, a pool process must not go on alone.
        set_parent_death_signal(signal.SIGTERM)

    @signals.worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
    def pass_on_shutdown(**_: object) -> None:
        stop.set()

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def start_background(**_: object) -> None:
        connections = connect(settings, app)
        Reaper(connections.jobs, settings.jobs).start()
        DocumentJanitor(connections, settings.uploads).start()

    return app


def main() -> None:
    """Run until SIGTERM; jobs in progress go back to the queue, to be started again."""
    settings = GatewaySettings()
    logs.configure("gateway-worker", settings.log_level)
    app = create_worker(settings)
    sys.exit(
        app.worker_main(
            [
                "--quiet",
                "worker",
                f"--queues={CPU_QUEUE}",
                f"--concurrency={settings.worker.concurrency}",
                "--without-gossip",
                "--without-mingle",
                f"--loglevel={settings.log_level}",
            ]
        )
    )


if __name__ == "__main__":
    main()

"""The CPU worker: preprocessing and evaluation, ``python -m narrowcast_gateway.worker``.

With ``--alive SECONDS`` it starts nothing and checks the one that runs.
"""

import argparse
import sys
from functools import cache
from typing import Any

from celery import Celery, signals

from narrowcast import logs, metrics
from narrowcast.connections import connect
from narrowcast.jobs.heartbeat import Heartbeat
from narrowcast.jobs.queue import CPU_QUEUE, TASKS
from narrowcast.jobs.reaper import Reaper
from narrowcast.jobs.records import JobKind
from narrowcast.jobs.running import Handler, RunningJob, run_job
from narrowcast.jobs.worker import create_worker_app, run_worker_app
from narrowcast.settings import settings_or_exit
from narrowcast_gateway.corpora.janitor import DocumentJanitor
from narrowcast_gateway.corpora.job import preprocess
from narrowcast_gateway.evaluation.job import evaluate
from narrowcast_gateway.services import Services, create_http_client, create_services
from narrowcast_gateway.settings import GatewaySettings

_SERVICE = "gateway-worker"
_HEARTBEAT_S = 5.0


def create_worker(settings: GatewaySettings) -> Celery:
    """Return the Celery application with its tasks.

    Connections are opened in the process that runs the tasks, never before the fork.
    """
    app, stop = create_worker_app(settings.redis)

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

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def start_background(sender: Any, **_: object) -> None:
        heartbeat = Heartbeat(settings.worker.heartbeat_file)
        heartbeat.start()
        # In the consumer's own loop, so that a beat proves that the loop turns.
        sender.timer.call_repeatedly(_HEARTBEAT_S, heartbeat.beat)
        connections = connect(settings, app)
        Reaper(connections.jobs, settings.jobs).start()
        DocumentJanitor(connections, settings.uploads).start()

    return app


def main() -> None:
    """Run until SIGTERM; jobs in progress go back to the queue, to be started again."""
    parser = argparse.ArgumentParser(prog="python -m narrowcast_gateway.worker", description=__doc__)
    parser.add_argument("--alive", type=float, metavar="SECONDS", help="exit 0 if it moved this recently")
    options = parser.parse_args()
    settings = settings_or_exit(GatewaySettings, _SERVICE)
    if options.alive is not None:
        sys.exit(0 if Heartbeat(settings.worker.heartbeat_file).is_fresh(options.alive) else 1)
    logs.configure(_SERVICE, settings.log_level)
    metrics.serve(settings.metrics)
    sys.exit(
        run_worker_app(
            create_worker(settings),
            name="worker",
            queue=CPU_QUEUE,
            concurrency=settings.worker.concurrency,
            log_level=settings.log_level,
        )
    )


if __name__ == "__main__":
    main()

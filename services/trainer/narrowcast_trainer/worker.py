"""The GPU worker: one job at a time, a training or an export, each in a process of its own."""

import threading
from collections.abc import Callable
from functools import cache, partial

from celery import Celery, signals

from narrowcast import logs, metrics
from narrowcast.connections import Connections, connect
from narrowcast.deletions import DeletedAdapters
from narrowcast.estimates.history import EstimateFacts
from narrowcast.jobs.heartbeat import Heartbeat
from narrowcast.jobs.one_job import end_after_one_job
from narrowcast.jobs.queue import GPU_QUEUE, TASKS
from narrowcast.jobs.reaper import Reaper
from narrowcast.jobs.records import JobKind
from narrowcast.jobs.running import RunningJob, run_next_job
from narrowcast.jobs.worker import create_worker_app, run_worker_app
from narrowcast_trainer.export.job import export
from narrowcast_trainer.job import train
from narrowcast_trainer.leftovers import sweep_adapters, sweep_checkpoints, sweep_exports, sweep_work_dir
from narrowcast_trainer.node import report_node
from narrowcast_trainer.observing import observe
from narrowcast_trainer.settings import TrainerSettings, TrainingSettings

_log = logs.get(__name__)
_HEARTBEAT_S = 5.0
_BACKGROUND_S = 600.0
_WAIT_FOR_THE_JOB_S = 60.0


def create_worker(settings: TrainerSettings) -> Celery:
    """Return the Celery application with its task.

    Connections are opened after the fork, in the process that runs the tasks. On SIGTERM
    Celery waits without limit for the task; ours ends within ``stop_grace_s``, because
    the stop request reaches the training, and the job goes back to the queue.
    """
    app, stop = create_worker_app(settings.redis)

    @cache
    def connections() -> Connections:
        return connect(settings, app)

    @app.task(name=TASKS[JobKind.EXPORT])  # type: ignore[untyped-decorator]
    @app.task(name=TASKS[JobKind.TRAINING])  # type: ignore[untyped-decorator]
    def run_next(_job_id: str) -> None:
        # Not the job that the message names: the one that is first in line.
        def handler(running: RunningJob) -> dict[str, object]:
            if running.job.kind is JobKind.EXPORT:
                return export(running, connections().storage.models, settings)
            result = train(running, connections().storage.models, settings)
            observe(EstimateFacts(connections().redis), settings.trainer, running.job, result)
            return result

        with stop.on_sigterm():
            run_next_job(connections().jobs, settings.jobs, JobKind.TRAINING, handler, stop.is_set)

    @signals.worker_process_init.connect(weak=False)  # type: ignore[untyped-decorator]
    def show_metrics(**_: object) -> None:
        # In the pool's only process: it is the one that hears how the training goes.
        metrics.serve(settings.metrics)

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def start_background(sender: object, **_: object) -> None:
        own = connect(settings, app)
        Reaper(own.jobs, settings.jobs).start()
        threading.Thread(
            target=_background, args=(own, settings.trainer), name="background", daemon=True
        ).start()
        heartbeat = Heartbeat(settings.trainer.heartbeat_file)
        heartbeat.start()
        # In the consumer's own loop, so that a beat proves that the loop turns.
        sender.timer.call_repeatedly(_HEARTBEAT_S, heartbeat.beat_if_idle)  # type: ignore[attr-defined]
        _log.info("worker_ready", queue=GPU_QUEUE)

    return app


def _background(connections: Connections, settings: TrainingSettings) -> None:
    jobs, models = connections.jobs, connections.storage.models
    steps: dict[str, Callable[[], int | None]] = {
        # Again each time: base models are added, and Redis may have been emptied.
        "report_node": partial(report_node, EstimateFacts(connections.redis), settings),
        "sweep_checkpoints": partial(sweep_checkpoints, jobs, models),
        "sweep_adapters": partial(sweep_adapters, jobs, models, DeletedAdapters(connections.redis), set()),
        "sweep_exports": partial(sweep_exports, jobs, models),
        "sweep_work_dir": partial(sweep_work_dir, jobs, settings.work_dir),
    }
    while True:
        for name, step in steps.items():
            try:
                if swept := step():
                    _log.info("swept", step=name, count=swept)
            except Exception:  # noqa: BLE001 - nobody else does the steps after it, nor the next round
                _log.warning("background_failed", step=name, exc_info=True)
        threading.Event().wait(_BACKGROUND_S)


def run_worker(settings: TrainerSettings, *, one_job: bool = False) -> int:
    """Run until SIGTERM, or until the first job has ended; return the exit status."""
    if one_job:
        end_after_one_job(GPU_QUEUE, _WAIT_FOR_THE_JOB_S)
    return run_worker_app(
        create_worker(settings), name="trainer", queue=GPU_QUEUE, concurrency=1, log_level=settings.log_level
    )

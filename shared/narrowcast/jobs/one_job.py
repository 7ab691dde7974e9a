"""A worker that runs one job and ends: a Kubernetes Job per training job, none when nothing waits.

Whatever scales by the length of a queue cannot see running jobs, and stops workers that run one
when the queue gets short. A worker that ends by itself never has to be stopped.
"""

import time
from typing import Any, Final

from celery import signals
from celery.worker import state

from narrowcast import logs

_log = logs.get(__name__)
_CHECK_S: Final = 0.5
_EXIT_OK: Final = 0


def end_after_one_job(queue: str, wait_s: float) -> None:
    """Make this process's Celery worker end, with status 0, after its first message.

    It ends as well if none comes for ``wait_s`` seconds: another worker was faster, or the job
    was cancelled while this one started. To be called before the worker starts.
    """
    taken = False
    deadline = float("inf")

    @signals.task_received.connect(weak=False)  # type: ignore[untyped-decorator]
    def take_no_more(sender: Any, **_: object) -> None:
        # In the loop that takes messages, hence before it can take a second one.
        nonlocal taken
        taken = True
        sender.cancel_task_queue(queue)

    @signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
    def watch(sender: Any, **_: object) -> None:
        nonlocal deadline
        deadline = time.monotonic() + wait_s
        sender.timer.call_repeatedly(_CHECK_S, end_if_done, (sender,))

    def end_if_done(consumer: Any) -> None:
        if not taken and time.monotonic() < deadline:
            return
        if not taken:
            _log.info("no_job_came")
            consumer.cancel_task_queue(queue)
        if not state.reserved_requests and not state.active_requests:
            state.should_stop = _EXIT_OK

"""The line of waiting jobs on a real Redis: who is taken, and how many messages say that one may be."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from narrowcast import ids
from narrowcast.connections import Connections
from narrowcast.errors import Unavailable
from narrowcast.jobs.line import WaitingLine
from narrowcast.jobs.queue import QUEUES, CeleryQueue
from narrowcast.jobs.reaper import Reaper
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.jobs.running import RunningJob, run_next_job
from narrowcast.jobs.schedule import RunWindow, Schedule
from narrowcast.settings import Settings

TRAINING = JobKind.TRAINING


def submit(connections: Connections, tenant: str, **schedule: Any) -> Job:
    job = Job(id=ids.new_id(TRAINING), kind=TRAINING, tenant=tenant, spec={}, schedule=Schedule(**schedule))
    connections.jobs.submit(job)
    return job


def messages(connections: Connections) -> int:
    length: Any = connections.redis.llen(QUEUES[TRAINING])
    return int(length)


def closed_now() -> RunWindow:
    """Return hours that begin in two hours."""
    begin = time.strftime("%H:%M", time.gmtime(time.time() + 7200))
    end = time.strftime("%H:%M", time.gmtime(time.time() + 10_800))
    return RunWindow.model_validate({"start": begin, "end": end, "time_zone": "UTC"})


def test_the_first_in_line_is_taken_not_the_job_of_the_message(connections: Connections) -> None:
    slow = submit(connections, "a")
    urgent = submit(connections, "a", priority=5)
    submit(connections, "b", priority=9, not_before=time.time() + 60)
    submit(connections, "b", priority=9, window=closed_now())
    connections.jobs.pause(submit(connections, "b", priority=9).id)
    taken = [connections.jobs.claim_next(TRAINING, "worker") for _ in range(3)]
    assert [job and job.id for job in taken] == [urgent.id, slow.id, None]
    assert connections.jobs.get(urgent.id).lease is not None


def test_a_job_of_another_kind_is_never_taken(connections: Connections, tenant: str) -> None:
    other = Job(id=ids.new_id(JobKind.EVALUATION), kind=JobKind.EVALUATION, tenant=tenant, spec={})
    connections.jobs.submit(other)
    assert connections.jobs.claim_next(TRAINING, "worker") is None


def test_exports_and_trainings_wait_in_one_line(connections: Connections, settings: Settings) -> None:
    first = submit(connections, "a")
    export = Job(id=ids.new_id(JobKind.EXPORT), kind=JobKind.EXPORT, tenant="b", spec={})
    connections.jobs.submit(export)
    submit(connections, "b")
    Reaper(connections.jobs, settings.jobs).sweep()
    assert messages(connections) == 3, "one for each, and none is taken back as the other kind's"
    taken = [connections.jobs.claim_next(kind, "worker") for kind in (TRAINING, JobKind.EXPORT, TRAINING)]
    assert [job and job.kind for job in taken] == [TRAINING, JobKind.EXPORT, TRAINING]
    assert [job and job.id for job in taken[:2]] == [first.id, export.id]


def test_many_trainers_take_every_job_once_and_in_turn(connections: Connections) -> None:
    """Whatever the race, each four trainings that begin are of four tenants."""
    tenants, each, workers = ("a", "b", "c", "d"), 6, 8
    for tenant in tenants:
        for _ in range(each):
            submit(connections, tenant)
    start = threading.Barrier(workers)
    order: list[Job] = []
    guard = threading.Lock()

    def work(number: int) -> None:
        start.wait()
        while (job := connections.jobs.claim_next(TRAINING, f"worker-{number}")) is not None:
            with guard:
                order.append(job)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    assert Counter(job.tenant for job in order) == dict.fromkeys(tenants, each)
    assert len({job.id for job in order}) == len(order)
    order.sort(key=lambda job: job.started_at or 0.0)
    rounds = [{job.tenant for job in order[place : place + 4]} for place in range(0, len(order), 4)]
    assert rounds == [set(tenants)] * each


def test_turns_are_remembered_when_nothing_runs(connections: Connections) -> None:
    def train() -> str:
        job = connections.jobs.claim_next(TRAINING, "worker")
        assert job is not None
        connections.jobs.finish(job.id, "worker", JobStatus.SUCCEEDED)
        return job.tenant

    for _ in range(5):
        submit(connections, "greedy")
    first = train()
    submit(connections, "late")
    assert (first, train(), train(), train()) == ("greedy", "late", "greedy", "greedy")


def test_an_interrupted_job_goes_on_before_others(connections: Connections) -> None:
    begun = submit(connections, "a")
    connections.jobs.claim_next(TRAINING, "worker")
    submit(connections, "b")
    connections.jobs.release(begun.id, "worker", progress={"step": 7})
    again = connections.jobs.claim_next(TRAINING, "worker")
    assert again is not None
    assert (again.id, again.attempt) == (begun.id, 1)


def test_jobs_that_an_outage_sent_back_untouched_let_others_have_their_turn(
    connections: Connections, settings: Settings
) -> None:
    def fail(_: RunningJob) -> dict[str, Any]:
        raise Unavailable("no S3")

    for _ in range(3):
        submit(connections, "a")
    for _ in range(3):
        run_next_job(connections.jobs, settings.jobs, TRAINING, fail)
    other = submit(connections, "b")
    for job in connections.jobs.active():
        due = job.model_copy(update={"retry_at": None})
        connections.redis.set(f"nc:job:{job.id}", due.model_dump_json())
    taken = connections.jobs.claim_next(TRAINING, "worker")
    assert taken is not None
    assert taken.id == other.id


def test_a_reaped_job_knows_when_its_lost_attempt_began(connections: Connections) -> None:
    job = submit(connections, "a")
    before = time.time()
    connections.jobs.claim_next(TRAINING, "worker")
    connections.jobs.renew(job.id, "worker")
    reaped = connections.jobs.reap(job.id, time.time() + 1000)
    assert reaped is not None
    (began_at,) = reaped.lost_attempts
    assert before <= began_at <= time.time()


def test_a_paused_and_resumed_job_waits_for_its_tenants_turn(connections: Connections) -> None:
    begun = submit(connections, "a")
    connections.jobs.claim_next(TRAINING, "worker")
    other = submit(connections, "b")
    connections.jobs.pause(begun.id)
    assert connections.jobs.release(begun.id, "worker").status is JobStatus.PAUSED
    connections.jobs.resume(begun.id)
    taken = [connections.jobs.claim_next(TRAINING, "worker") for _ in range(2)]
    assert [job and job.id for job in taken] == [other.id, begun.id]


# -- messages --------------------------------------------------------------------------------


@pytest.fixture
def reaper(connections: Connections, settings: Settings) -> Reaper:
    return Reaper(connections.jobs, settings.jobs)


def test_only_what_may_start_now_has_a_message(connections: Connections, reaper: Reaper) -> None:
    for _ in range(3):
        submit(connections, "a")
    submit(connections, "a", not_before=time.time() + 60)
    submit(connections, "a", window=closed_now())
    reaper.sweep()
    assert messages(connections) == 3
    waiting, _ = connections.jobs.page(TRAINING, "a", limit=5)
    connections.jobs.pause(waiting[4].id)
    connections.jobs.request_cancel(waiting[3].id)
    assert messages(connections) == 1, "nobody starts a trainer for what is paused or cancelled"
    connections.jobs.resume(waiting[4].id)
    assert messages(connections) == 2


def test_messages_too_many_are_taken_back(connections: Connections, reaper: Reaper) -> None:
    job = submit(connections, "a")
    for _ in range(3):
        connections.celery.send_task("narrowcast.train", args=[job.id], queue=QUEUES[TRAINING])
    reaper.sweep()
    assert messages(connections) == 1


def test_a_message_that_comes_while_others_are_counted_is_not_taken_back(
    connections: Connections, settings: Settings
) -> None:
    """Its trainer would be called ten seconds later, when a reaper finds that it has not come."""

    class Counting(CeleryQueue):
        counted = 0

        def depth(self, kind: JobKind) -> int:
            self.counted += 1
            if self.counted == 2:
                submit(connections, "a")
            return super().depth(kind)

    submit(connections, "a")
    WaitingLine(connections.redis, Counting(connections.celery), settings.jobs).balance(TRAINING)
    assert messages(connections) == 2


def test_a_clock_that_is_behind_the_gateways_finds_what_it_is_called_for(connections: Connections) -> None:
    job = Job(id=ids.new_id(TRAINING), kind=TRAINING, tenant="a", spec={}, queued_at=time.time() + 60)
    connections.jobs.submit(job)
    taken = connections.jobs.claim_next(TRAINING, "worker")
    assert taken is not None
    assert taken.id == job.id


def test_a_cancelled_job_that_fails_is_cancelled(connections: Connections, settings: Settings) -> None:
    job = submit(connections, "a", max_attempts=1)

    def fail(running: RunningJob) -> dict[str, Any]:
        connections.jobs.request_cancel(running.job.id, keep_checkpoint=True)
        running.renew()
        raise Unavailable("no S3")

    run_next_job(connections.jobs, settings.jobs, TRAINING, fail)
    assert connections.jobs.get(job.id).status is JobStatus.CANCELLED


def test_who_becomes_due_gets_a_message_then(connections: Connections, reaper: Reaper) -> None:
    for _ in range(3):
        submit(connections, "a", not_before=time.time() + 1)
    reaper.sweep()
    assert messages(connections) == 0
    time.sleep(1.1)
    for _ in range(3):
        reaper.sweep()
    assert messages(connections) == 3


def test_many_reapers_send_a_message_once(connections: Connections, settings: Settings) -> None:
    for _ in range(4):
        submit(connections, "a", not_before=time.time() - 1, window=None)
    connections.redis.delete(QUEUES[TRAINING])
    for job in connections.jobs.active():
        old = job.model_copy(update={"queued_at": time.time() - 60})
        connections.redis.set(f"nc:job:{job.id}", old.model_dump_json())
    start = threading.Barrier(6)

    def sweep(_: int) -> None:
        start.wait()
        Reaper(connections.jobs, settings.jobs).sweep()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(sweep, range(6)))
    assert messages(connections) == 4


def test_while_something_is_away_no_other_message_uses_up_a_jobs_attempts(
    connections: Connections, settings: Settings
) -> None:
    """Any message lets a worker take any job: not one that has just failed for want of S3."""
    attempts: list[str] = []

    def fail(running: RunningJob) -> dict[str, Any]:
        attempts.append(running.job.id)
        raise Unavailable("no S3")

    jobs = [submit(connections, "a") for _ in range(3)]
    for _ in range(6):
        run_next_job(connections.jobs, settings.jobs, TRAINING, fail)
    assert attempts == [job.id for job in jobs]
    assert all(job.status is JobStatus.QUEUED for job in connections.jobs.active())


# -- pausing while it runs -------------------------------------------------------------------


def test_pausing_reaches_a_running_handler(connections: Connections, settings: Settings) -> None:
    job = submit(connections, "a")

    def stubborn(running: RunningJob) -> dict[str, Any]:
        connections.jobs.pause(running.job.id)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            running.check()
            time.sleep(0.05)
        raise AssertionError("never told to stop")

    run_next_job(connections.jobs, settings.jobs, TRAINING, stubborn)
    paused = connections.jobs.get(job.id)
    assert (paused.status, paused.attempt, paused.lease) == (JobStatus.PAUSED, 0, None)
    assert [event.data.get("status") for event in connections.jobs.events(job.id, "a")] == [
        "running",
        "paused",
    ]


def test_a_job_whose_worker_dies_while_it_is_to_pause_is_paused(connections: Connections) -> None:
    job = submit(connections, "a", max_attempts=1)
    connections.jobs.claim_next(TRAINING, "worker")
    connections.jobs.pause(job.id)
    reaped = connections.jobs.reap(job.id, time.time() + 1000)
    assert reaped is not None
    assert (reaped.status, reaped.attempt) == (JobStatus.PAUSED, 0)


def test_a_jobs_own_limit_of_attempts_holds(connections: Connections) -> None:
    job = submit(connections, "a", max_attempts=1)
    connections.jobs.claim_next(TRAINING, "worker")
    reaped = connections.jobs.reap(job.id, time.time() + 1000)
    assert reaped is not None
    assert reaped.status is JobStatus.FAILED
    assert connections.jobs.events(job.id, "a")[-1].level == "error"


def test_a_cancelled_job_with_a_checkpoint_to_keep_goes_to_another_worker(
    connections: Connections, settings: Settings
) -> None:
    job = submit(connections, "a")
    connections.jobs.claim_next(TRAINING, "worker")
    connections.jobs.request_cancel(job.id, keep_checkpoint=True)
    time.sleep(settings.jobs.lease_s + 0.1)
    connections.jobs.reap(job.id, time.time())
    again = connections.jobs.claim_next(TRAINING, "another")
    assert again is not None
    assert (again.cancel_requested, again.keep_checkpoint) == (True, True)

"""Job records on a real Redis: who wins, what survives, what is picked up."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from narrowcast.connections import Connections
from narrowcast.errors import Conflict, NotFound
from narrowcast.jobs.queue import QUEUES
from narrowcast.jobs.reaper import Reaper
from narrowcast.jobs.records import JobKind, JobStatus, LeaseLost
from narrowcast.jobs.schedule import Schedule
from narrowcast.jobs.writing import events_key, record_key
from narrowcast.settings import Settings
from narrowcast.storage import Bucket

from .records import new_job, queue_length


def test_a_submitted_job_is_recorded_and_hinted(connections: Connections, tenant: str) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)
    assert connections.jobs.get(job.id, tenant=tenant, kind=JobKind.TRAINING) == job
    assert queue_length(connections) == 1


def test_another_tenants_job_does_not_exist(connections: Connections, tenant: str) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)
    with pytest.raises(NotFound):
        connections.jobs.get(job.id, tenant="other")
    with pytest.raises(NotFound):
        connections.jobs.get(job.id, kind=JobKind.EVALUATION)


def test_of_many_workers_exactly_one_claims(connections: Connections, tenant: str) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)
    start = threading.Barrier(8)

    def claim(number: int) -> bool:
        start.wait()
        try:
            connections.jobs.claim(job.id, f"worker-{number}")
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(claim, range(8))) == 1
    assert connections.jobs.get(job.id).attempt == 1


def test_a_lost_lease_lets_the_old_worker_write_nothing(connections: Connections, tenant: str) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)
    connections.jobs.claim(job.id, "old")
    connections.jobs.reap(job.id, time.time() + 1000)
    connections.jobs.claim(job.id, "new")
    with pytest.raises(LeaseLost):
        connections.jobs.finish(job.id, "old", JobStatus.SUCCEEDED, result={"adapter_id": "stale"})
    with pytest.raises(LeaseLost):
        connections.jobs.renew(job.id, "old")
    connections.jobs.finish(job.id, "new", JobStatus.SUCCEEDED, result={"adapter_id": "fresh"})
    assert connections.jobs.get(job.id).result == {"adapter_id": "fresh"}


def test_reaping_resumes_until_the_attempts_are_used_up(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)
    for attempt in range(1, settings.jobs.max_attempts + 1):
        assert connections.jobs.claim(job.id, f"worker-{attempt}").attempt == attempt
        assert connections.jobs.reap(job.id, time.time()) is None, "a lease that holds is left alone"
        connections.jobs.reap(job.id, time.time() + 1000)
    failed = connections.jobs.get(job.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "worker_lost"


def test_a_cancelled_job_whose_worker_died_is_cancelled(connections: Connections, tenant: str) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)
    connections.jobs.claim(job.id, "worker")
    connections.jobs.request_cancel(job.id)
    connections.jobs.reap(job.id, time.time() + 1000)
    assert connections.jobs.get(job.id).status is JobStatus.CANCELLED


def test_cancelling_queued_and_ended_jobs(connections: Connections, tenant: str) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)
    assert connections.jobs.request_cancel(job.id).status is JobStatus.CANCELLED
    with pytest.raises(Conflict):
        connections.jobs.request_cancel(job.id)
    with pytest.raises(Conflict):
        connections.jobs.claim(job.id, "worker")


def test_a_lost_message_is_sent_again_only_when_the_queue_is_empty(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    job = new_job(tenant).model_copy(update={"queued_at": time.time() - 60})
    connections.jobs.submit(job)
    reaper = Reaper(connections.jobs, settings.jobs)
    reaper.sweep()
    assert queue_length(connections) == 1, "the message is still there"
    connections.redis.delete(QUEUES[JobKind.TRAINING])
    reaper.sweep()
    assert queue_length(connections) == 1, "the message was lost and came back"


def test_a_lost_message_that_names_its_job_is_sent_again_while_others_come_and_go(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    kind = JobKind.EVALUATION
    lost = new_job(tenant, kind).model_copy(update={"queued_at": time.time() - 60})
    connections.jobs.submit(lost)
    connections.redis.delete(QUEUES[kind])
    reaper = Reaper(connections.jobs, settings.jobs)
    for _ in range(2):
        connections.jobs.submit(new_job("another", kind))
    reaper.sweep()
    assert queue_length(connections, kind) == 3
    newest: Any = connections.redis.lindex(QUEUES[kind], 0)
    assert lost.id in newest
    reaper.sweep()
    assert queue_length(connections, kind) == 3, "once"


def test_a_message_that_names_its_job_is_not_taken_back(
    connections: Connections, settings: Settings, tenant: str
) -> None:
    """Which one it would be nobody knows."""
    kind = JobKind.EVALUATION
    jobs = [new_job(tenant, kind) for _ in range(2)]
    for job in jobs:
        connections.jobs.submit(job)
    connections.jobs.request_cancel(jobs[0].id)
    Reaper(connections.jobs, settings.jobs).sweep()
    assert queue_length(connections, kind) == 2


def test_ended_jobs_outlive_redis(connections: Connections, settings: Settings, tenant: str) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)
    connections.jobs.claim(job.id, "worker")
    connections.jobs.add_event(job.id, "half way", data={"step": 1})
    connections.jobs.finish(job.id, "worker", JobStatus.SUCCEEDED, result={"adapter_id": "a"})
    Reaper(connections.jobs, settings.jobs).sweep()
    connections.redis.delete(f"nc:job:{job.id}", f"nc:job:{job.id}:events")
    assert connections.jobs.get(job.id, tenant=tenant).result == {"adapter_id": "a"}
    messages = [event.message for event in connections.jobs.events(job.id, tenant)]
    assert messages == ["a worker has started the job, attempt 1", "half way", "the job has succeeded"]
    page, more = connections.jobs.page(JobKind.TRAINING, tenant)
    assert [listed.id for listed in page] == [job.id]
    assert not more


def test_what_is_asked_of_an_archived_job_is_refused_as_of_any_that_has_ended(
    connections: Connections, tenant: str
) -> None:
    jobs, job = connections.jobs, new_job(tenant)
    jobs.submit(job)
    jobs.request_cancel(job.id)
    jobs.archive_ended()
    connections.redis.delete(f"nc:job:{job.id}", f"nc:job:{job.id}:events")
    codes = []
    for ask in (jobs.request_cancel, jobs.pause, jobs.resume):
        with pytest.raises(Conflict) as refused:
            ask(job.id)
        codes.append(refused.value.code)
    assert codes == ["job_ended", "job_ended", "not_paused"]
    with pytest.raises(LeaseLost):
        jobs.renew(job.id, "worker")
    assert connections.redis.keys(f"nc:job:{job.id}*") == []


def test_pages_go_from_new_to_old(connections: Connections, tenant: str) -> None:
    jobs = [new_job(tenant).model_copy(update={"created_at": float(number)}) for number in range(5)]
    for job in jobs:
        connections.jobs.submit(job)
    first, more = connections.jobs.page(JobKind.TRAINING, tenant, limit=3)
    assert [job.id for job in first] == [job.id for job in jobs[:1:-1]]
    assert more
    rest, more = connections.jobs.page(JobKind.TRAINING, tenant, after=first[-1].id, limit=3)
    assert [job.id for job in rest] == [jobs[1].id, jobs[0].id]
    assert not more


@pytest.mark.parametrize("limit", [1, 2, 20])
def test_a_record_that_cannot_be_read_or_is_gone_hides_no_other(
    connections: Connections, tenant: str, limit: int
) -> None:
    jobs = [new_job(tenant).model_copy(update={"created_at": float(number)}) for number in range(6)]
    for job in jobs:
        connections.jobs.submit(job)
    for foreign in (jobs[5], jobs[4], jobs[2]):
        newer = foreign.model_dump_json().replace('"status":"queued"', '"status":"archiving"')
        connections.redis.set(record_key(foreign.id), newer)
    connections.redis.delete(record_key(jobs[1].id))
    listed: list[str] = []
    after, more = None, True
    while more:
        page, more = connections.jobs.page(JobKind.TRAINING, tenant, after=after, limit=limit)
        listed += [job.id for job in page]
        after = listed[-1]
    assert listed == [jobs[3].id, jobs[0].id]


@pytest.mark.parametrize("archived", [False, True])
def test_events_are_paged_from_the_newest(connections: Connections, tenant: str, archived: bool) -> None:
    job = new_job(tenant)
    connections.jobs.submit(job)
    for number in range(4):
        connections.jobs.add_event(job.id, f"event {number}")
    if archived:
        connections.jobs.request_cancel(job.id)
        connections.jobs.archive_ended()
        connections.redis.delete(record_key(job.id), events_key(job.id))
    said = [event.message for event in connections.jobs.events(job.id, tenant)][::-1]
    first, more = connections.jobs.events_page(job.id, tenant, limit=3)
    assert ([event.message for event in first], more) == (said[:3], True)
    rest, more = connections.jobs.events_page(job.id, tenant, after=first[-1].id, limit=3)
    assert ([event.message for event in rest], more) == (said[3:], False)
    for unknown in ("0-1", "$", "x", f"{2**64}-0"):
        with pytest.raises(NotFound):
            connections.jobs.events_page(job.id, tenant, after=unknown)


def test_a_page_of_events_is_all_that_is_read_for_it(connections: Connections, tenant: str) -> None:
    job = new_job(tenant)
    connections.redis.xadd(events_key(job.id), {"event": "nobody looks at this one"})
    connections.jobs.submit(job)
    for number in range(3):
        connections.jobs.add_event(job.id, f"event {number}")
    page, more = connections.jobs.events_page(job.id, tenant, limit=2)
    assert ([event.message for event in page], more) == (["event 2", "event 1"], True)


def test_a_checkpoint_that_no_worker_lived_to_keep_is_missed(connections: Connections, tenant: str) -> None:
    job = new_job(tenant).model_copy(update={"schedule": Schedule(max_attempts=1)})
    connections.jobs.submit(job)
    connections.jobs.claim(job.id, "worker")
    connections.jobs.request_cancel(job.id, keep_checkpoint=True)
    connections.jobs.reap(job.id, time.time() + 1000)
    assert connections.jobs.get(job.id).status is JobStatus.CANCELLED
    warning, end = connections.jobs.events(job.id, tenant)[-2:]
    assert (warning.level, warning.data) == ("warn", {"code": "worker_lost"})
    assert warning.message == "no checkpoint was kept: the worker was lost in each of 1 attempts"
    assert end.message == "the job is cancelled"


def test_of_an_archived_job_only_what_is_asked_for_is_read(
    connections: Connections, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events are megabytes; a listing shows a hundred such jobs, and a client pages through events."""
    job = new_job(tenant)
    connections.jobs.submit(job)
    for number in range(9):
        connections.jobs.add_event(job.id, f"event {number}")
    connections.jobs.request_cancel(job.id)
    connections.jobs.archive_ended()
    connections.redis.delete(record_key(job.id), events_key(job.id))
    read: list[str] = []
    get = Bucket.get

    def counted(bucket: Bucket, key: str) -> bytes:
        read.append(key)
        return get(bucket, key)

    monkeypatch.setattr(Bucket, "get", counted)
    assert connections.jobs.page(JobKind.TRAINING, tenant)[0][0].status is JobStatus.CANCELLED
    assert read == [f"jobs/{tenant}/{job.id}.json"]
    after = None
    more = True
    while more:
        page, more = connections.jobs.events_page(job.id, tenant, after=after, limit=2)
        after = page[-1].id
    assert read[1:] == [f"jobs/{tenant}/{job.id}.events.json"]

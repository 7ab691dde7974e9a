"""The trainer's side of a shared GPU, against a small real HTTP server that plays its part."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import pytest

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.jobs.records import Job, JobKind, LeaseLost
from narrowcast.jobs.running import Cancelled, Interrupted, RunningJob
from narrowcast_local.stack.servers import free_port
from narrowcast_trainer import gpu
from narrowcast_trainer.gpu import GpuShare, ServerLease, gpu_to_ourselves
from narrowcast_trainer.settings import TrainingSettings

TTL_S = 60.0
"""So long that a busy machine answers in time, and that no lease is renewed where that is not wanted."""


class Store:
    """Takes down a job's events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def add_event(self, _job_id: str, message: str, **_: Any) -> None:
        self.events.append(message)


class _Inference(BaseHTTPRequestHandler):
    def _answer(self, status: int) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(f"{self.command} {self.path.rpartition('/')[2]}")  # type: ignore[attr-defined]
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PUT(self) -> None:
        answers = self.server.answers  # type: ignore[attr-defined]
        self._answer(answers.pop(0) if len(answers) > 1 else answers[0])

    def do_DELETE(self) -> None:
        self._answer(204)

    def log_message(self, *_: object) -> None:
        pass


class Inference(ThreadingHTTPServer):
    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Inference)
        self.answers = [200]
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def until_asked(self, times: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.asked) < times:
            assert time.monotonic() < deadline, self.asked
            time.sleep(0.01)

    def close(self) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture
def inference() -> Iterator[Inference]:
    server = Inference()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_POLL_S", 0.05)
    monkeypatch.setattr(gpu, "_ENDED_S", 0.5)


@pytest.fixture(autouse=True)
def numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that ask for the GPU have numbers, from 1, in the place of random ones."""
    numbers = count(1)
    monkeypatch.setattr(gpu.secrets, "token_hex", lambda _: str(next(numbers)))


@pytest.fixture
def renewing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are renewed all the time."""

    def share(leases: list[ServerLease], every_s: float) -> GpuShare:
        assert every_s < TTL_S / 2, "one renewal may be lost"
        return GpuShare(leases, 0.05)

    monkeypatch.setattr(gpu, "GpuShare", share)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def worker_stops() -> threading.Event:
    return threading.Event()


@pytest.fixture
def running(store: Store, worker_stops: threading.Event) -> RunningJob:
    job = Job(id="ftjob-1", kind=JobKind.TRAINING, tenant="t", spec={})
    return RunningJob(store, job, "w", worker_stops.is_set)  # type: ignore[arg-type]


def settings(*ports: int, patience_s: float = 60.0) -> TrainingSettings:
    return TrainingSettings.model_validate(
        {
            "gpu_lease_urls": [f"http://127.0.0.1:{port}" for port in ports],
            "gpu_lease_ttl_s": TTL_S,
            "gpu_lease_patience_s": patience_s,
        }
    )


def beat() -> None:
    pass


def test_without_a_server_on_the_gpu_nothing_is_asked(running: RunningJob, store: Store) -> None:
    with gpu_to_ourselves(running, settings(), beat):
        pass
    assert store.events == []


@pytest.mark.usefixtures("renewing")
def test_the_lease_is_waited_for_renewed_and_given_back(
    running: RunningJob, store: Store, inference: Inference
) -> None:
    inference.answers = [409, 202, 202, 200]
    beats: list[int] = []
    with gpu_to_ourselves(running, settings(inference.server_port), lambda: beats.append(1)):
        assert len(beats) == 3, "a worker that waits is alive"
        inference.until_asked(7)
    assert inference.asked[-1] == "DELETE ftjob-1.1"
    assert set(inference.asked[:-1]) == {"PUT ftjob-1.1"}
    assert len(beats) == 3
    assert [event.split(":")[0] for event in store.events] == [
        "waiting for the GPU",
        "waiting for the GPU",
        "serving pauses while this job trains",
        "serving may go on",
    ]
    assert not any(thread.name == "gpu-lease" for thread in threading.enumerate()), "renewed no more"


def test_a_run_that_ends_late_gives_back_no_lease_of_the_next_one(
    running: RunningJob, inference: Inference
) -> None:
    """It stood still, was paused meanwhile, and resumed by another trainer: that is the same attempt again."""
    share = settings(inference.server_port)
    with gpu_to_ourselves(running, share, beat), gpu_to_ourselves(running, share, beat):
        pass
    assert inference.asked == ["PUT ftjob-1.1", "PUT ftjob-1.2", "DELETE ftjob-1.2", "DELETE ftjob-1.1"]


@pytest.mark.parametrize("end", [JobFailed("x"), Cancelled(), Interrupted(), LeaseLost("x"), OSError()])
def test_the_lease_is_given_back_whatever_happens(
    running: RunningJob, store: Store, inference: Inference, end: Exception
) -> None:
    def train() -> None:
        with gpu_to_ourselves(running, settings(inference.server_port), beat):
            if isinstance(end, LeaseLost):
                running.lost.set()
            raise end

    with pytest.raises(type(end)):
        train()
    assert inference.asked == ["PUT ftjob-1.1", "DELETE ftjob-1.1"]
    # Who has lost the job writes nothing more about it.
    assert ("serving may go on" in store.events) is not isinstance(end, LeaseLost)


@pytest.mark.parametrize("why", [Cancelled, Interrupted, LeaseLost])
def test_a_job_that_waits_for_the_gpu_can_be_stopped(
    running: RunningJob, inference: Inference, worker_stops: threading.Event, why: type[Exception]
) -> None:
    inference.answers = [409]
    end = {Cancelled: running.cancelled, LeaseLost: running.lost, Interrupted: worker_stops}[why].set
    with pytest.raises(why), gpu_to_ourselves(running, settings(inference.server_port), end):
        pytest.fail("trained on a GPU that is another's")


def test_a_server_that_starts_is_waited_for(running: RunningJob, store: Store) -> None:
    port = free_port()
    servers: list[Inference] = []
    with gpu_to_ourselves(running, settings(port), lambda: servers.append(Inference(port))):
        (server,) = servers
        assert server.asked == ["PUT ftjob-1.1"]
    server.close()
    assert "may be starting" in store.events[0]


@pytest.mark.usefixtures("renewing")
def test_a_server_that_is_down_holds_up_nobody_and_is_caught_when_it_comes(running: RunningJob) -> None:
    port = free_port()
    with gpu_to_ourselves(running, settings(port, patience_s=0.2), beat):
        late = Inference(port)
        late.until_asked(1)
    assert late.asked[-1] == "DELETE ftjob-1.1"
    late.close()


def test_a_server_that_ends_instead_of_falling_asleep_is_not_asked_for_ever(running: RunningJob) -> None:
    """Its host lacks the memory: it is started again, asked, and ends again."""
    servers: list[Inference] = []
    starts = 0

    def watch() -> None:
        nonlocal starts
        if servers and servers[-1].asked:
            servers.pop().close()
            starts = 0
        elif not servers and (starts := starts + 1) > 15:
            servers.append(Inference(port))
            servers[-1].answers = [202]

    port = free_port()
    with pytest.raises(Unavailable) as gone, gpu_to_ourselves(running, settings(port), watch):
        pytest.fail("trained beside a server that has the GPU")
    assert gone.value.code == "gpu_not_freed"


def test_a_server_that_only_pauses_has_not_ended(
    running: RunningJob, inference: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_ENDED_S", 30.0)
    inference.answers = [*[202, 500] * 4, 200]
    with gpu_to_ourselves(running, settings(inference.server_port), beat):
        assert inference.asked == ["PUT ftjob-1.1"] * 9


def test_servers_are_held_while_another_is_waited_for(running: RunningJob, inference: Inference) -> None:
    second = Inference()
    first, last = sorted((inference, second), key=lambda server: f"http://127.0.0.1:{server.server_port}/")
    last.answers = [*[202] * 5, 200]
    with gpu_to_ourselves(running, settings(last.server_port, first.server_port), beat):
        assert first.asked == ["PUT ftjob-1.1"] * 6
    assert first.asked[-1] == last.asked[-1] == "DELETE ftjob-1.1"
    second.close()


@pytest.mark.parametrize("status", [404, 405, 422])
def test_a_server_that_does_not_share_is_a_mistake(
    running: RunningJob, inference: Inference, status: int
) -> None:
    inference.answers = [status]
    with (
        pytest.raises(JobFailed) as refused,
        gpu_to_ourselves(running, settings(inference.server_port), beat),
    ):
        pass
    assert refused.value.code == "gpu_not_shared"


@pytest.mark.usefixtures("renewing")
@pytest.mark.parametrize(
    ("renewals", "expected"), [(200, JobFailed), (202, Unavailable), (409, Unavailable), (500, Unavailable)]
)
def test_running_out_of_memory_counts_only_on_a_gpu_of_our_own(
    running: RunningJob, inference: Inference, renewals: int, expected: type[Exception]
) -> None:
    inference.answers = [200, renewals]

    def train() -> None:
        with gpu_to_ourselves(running, settings(inference.server_port), beat):
            inference.until_asked(3)
            raise JobFailed("no memory", code="out_of_memory")

    with pytest.raises(expected):
        train()

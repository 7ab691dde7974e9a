"""The trainer's side of a shared GPU, against a small real HTTP server that plays its part."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.jobs.records import Job, JobKind, LeaseLost
from narrowcast.jobs.running import Cancelled, Interrupted, RunningJob
from narrowcast_local.stack.servers import free_port
from narrowcast_trainer import gpu
from narrowcast_trainer.gpu import gpu_to_ourselves
from narrowcast_trainer.settings import TrainingSettings


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
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def until_asked(self, times: int) -> None:
        deadline = time.monotonic() + 5
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


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def running(store: Store) -> RunningJob:
    job = Job(id="ftjob-1", kind=JobKind.TRAINING, tenant="t", spec={}, attempt=2)
    return RunningJob(store, job, "w")  # type: ignore[arg-type]


def settings(*ports: int, patience_s: float = 60.0) -> TrainingSettings:
    return TrainingSettings.model_validate(
        {
            "gpu_lease_urls": [f"http://127.0.0.1:{port}" for port in ports],
            "gpu_lease_ttl_s": 0.6,
            "gpu_lease_patience_s": patience_s,
        }
    )


def beat() -> None:
    pass


def test_without_a_server_on_the_gpu_nothing_is_asked(running: RunningJob, store: Store) -> None:
    with gpu_to_ourselves(running, settings(), lambda: False, beat):
        pass
    assert store.events == []


def test_the_lease_is_waited_for_renewed_and_given_back(
    running: RunningJob, store: Store, inference: Inference
) -> None:
    inference.answers = [409, 202, 202, 200]
    beats: list[int] = []
    with gpu_to_ourselves(running, settings(inference.server_port), lambda: False, lambda: beats.append(1)):
        assert inference.asked == ["PUT ftjob-1.2"] * 4
        inference.until_asked(7)
    assert inference.asked[-1] == "DELETE ftjob-1.2"
    assert set(inference.asked[:-1]) == {"PUT ftjob-1.2"}
    assert len(beats) == 3, "a worker that waits is alive"
    assert [event.split(":")[0] for event in store.events] == [
        "waiting for the GPU",
        "waiting for the GPU",
        "serving pauses while this job trains",
        "serving may go on",
    ]
    asked = len(inference.asked)
    time.sleep(0.5)
    assert len(inference.asked) == asked


@pytest.mark.parametrize("end", [JobFailed("x"), Cancelled(), Interrupted(), LeaseLost("x"), OSError()])
def test_the_lease_is_given_back_whatever_happens(
    running: RunningJob, store: Store, inference: Inference, end: Exception
) -> None:
    def train() -> None:
        with gpu_to_ourselves(running, settings(inference.server_port), lambda: False, beat):
            if isinstance(end, LeaseLost):
                running.lost.set()
            raise end

    with pytest.raises(type(end)):
        train()
    assert inference.asked == ["PUT ftjob-1.2", "DELETE ftjob-1.2"]
    # Who has lost the job writes nothing more about it.
    assert ("serving may go on" in store.events) is not isinstance(end, LeaseLost)


@pytest.mark.parametrize("why", [Cancelled, Interrupted, LeaseLost])
def test_a_job_that_waits_for_the_gpu_can_be_stopped(
    running: RunningJob, inference: Inference, why: type[Exception]
) -> None:
    inference.answers = [409]
    stop = threading.Event()
    timer = threading.Timer(
        0.3, {Cancelled: running.cancelled.set, LeaseLost: running.lost.set, Interrupted: stop.set}[why]
    )
    timer.start()
    with (
        pytest.raises(why),
        gpu_to_ourselves(running, settings(inference.server_port), stop.is_set, beat),
    ):
        pytest.fail("trained on a GPU that is another's")
    timer.join()


def test_a_server_that_starts_is_waited_for(running: RunningJob, store: Store) -> None:
    port = free_port()
    servers: list[Inference] = []
    timer = threading.Timer(0.4, lambda: servers.append(Inference(port)))
    timer.start()
    with gpu_to_ourselves(running, settings(port), lambda: False, beat):
        assert servers[0].asked == ["PUT ftjob-1.2"]
    servers[0].close()
    assert "may be starting" in store.events[0]


def test_a_server_that_is_down_holds_up_nobody_and_is_caught_when_it_comes(running: RunningJob) -> None:
    port = free_port()
    with gpu_to_ourselves(running, settings(port, patience_s=0.2), lambda: False, beat):
        late = Inference(port)
        late.until_asked(1)
    assert late.asked[-1] == "DELETE ftjob-1.2"
    late.close()


def test_servers_are_held_while_another_is_waited_for(running: RunningJob, inference: Inference) -> None:
    second = Inference()
    first, last = sorted((inference, second), key=lambda server: f"http://127.0.0.1:{server.server_port}/")
    last.answers = [*[202] * 20, 200]
    with gpu_to_ourselves(running, settings(last.server_port, first.server_port), lambda: False, beat):
        assert len(first.asked) > 10
    assert first.asked[-1] == last.asked[-1] == "DELETE ftjob-1.2"
    second.close()


@pytest.mark.parametrize("status", [404, 405, 422])
def test_a_server_that_does_not_share_is_a_mistake(
    running: RunningJob, inference: Inference, status: int
) -> None:
    inference.answers = [status]
    with (
        pytest.raises(JobFailed) as refused,
        gpu_to_ourselves(running, settings(inference.server_port), lambda: False, beat),
    ):
        pass
    assert refused.value.code == "gpu_not_shared"


@pytest.mark.parametrize(
    ("renewals", "expected"), [(200, JobFailed), (202, Unavailable), (409, Unavailable), (500, Unavailable)]
)
def test_running_out_of_memory_counts_only_on_a_gpu_of_our_own(
    running: RunningJob, inference: Inference, renewals: int, expected: type[Exception]
) -> None:
    inference.answers = [200, renewals]

    def train() -> None:
        with gpu_to_ourselves(running, settings(inference.server_port), lambda: False, beat):
            inference.until_asked(3)
            raise JobFailed("no memory", code="out_of_memory")

    with pytest.raises(expected):
        train()

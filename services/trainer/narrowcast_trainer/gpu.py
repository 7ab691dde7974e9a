"""Makes room on a GPU that is shared with inference servers: they sleep while a job trains.

A server is asked again and again: until it sleeps, and then often enough that it does not take
this trainer for dead and wake up. That also reaches a server which is started in the middle of a
job; until it answers, it fails for lack of memory and is started again by whoever watches it.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Final

import urllib3

from narrowcast import logs
from narrowcast.errors import JobFailed, NarrowcastError, Unavailable
from narrowcast.jobs.running import RunningJob
from narrowcast_trainer.settings import TrainingSettings

_POLL_S: Final = 1.0
_RENEWALS_PER_TTL: Final = 3
_REQUEST_S: Final = 5.0
_RELEASE_TRIES: Final = 3
"""After that the lease runs out by itself."""
_ENDED_S: Final = 15.0
"""Nothing of a server for so long, when it was to sleep, means that it has ended: it only pauses for less."""
_MOST_ENDS: Final = 2
_OK, _NOT_YET, _HELD, _SERVER_FAULT = 200, 202, 409, 500

_log = logs.get(__name__)


class Answer(Enum):
    """What a server says to somebody who wants its GPU."""

    ASLEEP = auto()
    NOT_YET = auto()
    """It lets the requests in flight end, or is just waking up from another job."""
    HELD = auto()
    """Another job has the GPU."""
    ABSENT = auto()
    """It does not answer: it is down, or starting."""


class ServerLease:
    """One inference server's promise to stay off the GPU.

    Args:
        url: of the server.
        holder: names this run of the job, and no other.
        ttl_s: seconds after which the server forgets a holder it does not hear from.
    """

    def __init__(self, url: str, holder: str, ttl_s: float) -> None:
        self.url = url.rstrip("/")
        self._path = f"{self.url}/narrowcast/gpu-lease/{holder}"
        self._ttl_s = ttl_s
        timeout = min(_REQUEST_S, ttl_s / _RENEWALS_PER_TTL)
        # The proxies of the environment do not matter here: the server is on this node.
        self._http = urllib3.PoolManager(timeout=timeout, retries=False)

    def hold(self) -> Answer:
        """Take or renew the lease.

        Raises:
            JobFailed: the server knows no such thing; its settings do not fit ours.
        """
        try:
            status = self._http.request("PUT", self._path, json={"ttl_s": self._ttl_s}).status
        except urllib3.exceptions.HTTPError:
            return Answer.ABSENT
        if status >= _SERVER_FAULT:
            return Answer.ABSENT
        answers = {_OK: Answer.ASLEEP, _NOT_YET: Answer.NOT_YET, _HELD: Answer.HELD}
        if status not in answers:
            message = "the inference server on this GPU does not share it: its gpu_sharing is not set"
            raise JobFailed(message, code="gpu_not_shared")
        return answers[status]

    def release(self) -> None:
        """Let the server wake up; never raises."""
        for _ in range(_RELEASE_TRIES):
            with suppress(urllib3.exceptions.HTTPError):
                self._http.request("DELETE", self._path)
                return
        _log.warning("gpu_not_given_back", server=self.url)


class GpuShare:
    """The leases of one training, kept up by a thread while the context is open."""

    def __init__(self, leases: list[ServerLease], every_s: float) -> None:
        self.leases = leases
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="gpu-lease", daemon=True)
        self.disturbed = False
        """Whether a server may have used the GPU at any time since it was taken."""

    def __enter__(self) -> "GpuShare":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._stop.wait(self._every_s):
            for lease in self.leases:
                try:
                    answer = lease.hold()
                except NarrowcastError:
                    answer = Answer.ABSENT
                if answer is not Answer.ASLEEP:
                    self.disturbed = True
                    _log.warning("gpu_lease_not_renewed", server=lease.url, answer=answer.name)


@contextmanager
def gpu_to_ourselves(
    running: RunningJob,
    settings: TrainingSettings,
    beat: Callable[[], None],
    *,
    although_cancelled: bool = False,
) -> Iterator[None]:
    """Keep the servers that share our GPU asleep while the context is open.

    Waits as long as another job has the GPU. Without ``gpu_lease_urls`` it does nothing.

    Args:
        running: the job that needs the GPU.
        settings: name the servers.
        beat: called while it waits.
        although_cancelled: wait all the same, to keep what the cancelled job has made.

    Raises:
        Cancelled, Interrupted, LeaseLost: the job must stop, while it waits.
        Unavailable: ``gpu_not_freed``, a server ends rather than sleep; or ``gpu_disturbed``, the training
            ran out of memory, and a server may have been the reason.
    """
    # Not by the attempt, whose number comes again where one did not count: this run may stand still, and end
    # when the next one has the GPU.
    holder = f"{running.job.id}.{secrets.token_hex(4)}"
    # Sorted: two trainers that take the same servers in different orders would wait for each other.
    urls = sorted(str(url) for url in settings.gpu_lease_urls)
    leases = [ServerLease(url, holder, settings.gpu_lease_ttl_s) for url in urls]
    if not leases:
        yield
        return
    waiting = _Waiting(running, settings.gpu_lease_patience_s, beat, although_cancelled)
    try:
        asleep = [waiting.take(lease, leases[:index]) for index, lease in enumerate(leases)]
        running.event("serving pauses while this job trains: they share a GPU")
        with GpuShare(leases, settings.gpu_lease_ttl_s / _RENEWALS_PER_TTL) as share:
            try:
                yield
            except JobFailed as error:
                if error.code == "out_of_memory" and (share.disturbed or not all(asleep)):
                    message = "out of memory while an inference server may have used the GPU as well"
                    raise Unavailable(message, code="gpu_disturbed") from error
                raise
    finally:
        for lease in leases:
            lease.release()
        if not running.lost.is_set():
            running.event("serving may go on")


class _Waiting:
    """Waits for leases in the course of one job."""

    def __init__(
        self, running: RunningJob, patience_s: float, beat: Callable[[], None], although_cancelled: bool
    ) -> None:
        self._although_cancelled = although_cancelled
        self._running = running
        self._patience_s = patience_s
        self._beat = beat
        self._said: set[str] = set()

    def take(self, lease: ServerLease, held: list[ServerLease]) -> bool:
        """Wait until the server sleeps; return False if it does not answer for too long.

        A server that starts takes the GPU before it answers, so one is not taken for absent at once.

        Raises:
            Unavailable: ``gpu_not_freed``, it ends instead of falling asleep, again and again.
        """
        answered_at = time.monotonic()
        falling_asleep, ends = False, 0
        while (answer := lease.hold()) is not Answer.ASLEEP:
            if answer is not Answer.ABSENT:
                answered_at, falling_asleep = time.monotonic(), answer is Answer.NOT_YET
            silent_s = time.monotonic() - answered_at
            if falling_asleep and silent_s >= _ENDED_S:
                falling_asleep, ends = False, ends + 1
            if ends >= _MOST_ENDS:
                raise Unavailable(
                    "the inference server ends each time it is to sleep for this job; it needs room in the"
                    " host's memory for its weights, its log says more",
                    code="gpu_not_freed",
                )
            if silent_s >= self._patience_s:
                _log.warning("gpu_server_absent", server=lease.url, after_s=self._patience_s)
                self._say("an inference server does not answer; training starts all the same")
                return False
            self._say(_REASONS[answer])
            for other in held:
                other.hold()
            self._running.check(although_cancelled=self._although_cancelled)
            self._beat()
            time.sleep(_POLL_S)
        return True

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            self._running.event(message)


_REASONS: Final = {
    Answer.NOT_YET: "waiting for the GPU: requests in flight end first",
    Answer.HELD: "waiting for the GPU: another job trains",
    Answer.ABSENT: "waiting for the GPU: an inference server does not answer, it may be starting",
}

"""Lends the GPU to a training job: vLLM sleeps meanwhile, and wakes up whatever becomes of the job.

Level 1 of vLLM's sleep mode: weights go to the host's memory, the KV cache is dropped. What LoRA
keeps on the GPU (slots, index buffers) is allocated while the model loads, in the memory pool
tagged ``weights``, hence saved and put back at its old address; adapters that are not in a slot
are in the host's memory anyway (vLLM 0.32: ``gpu_worker.load_model``, ``lora.worker_manager``).
So no adapter has to be loaded again. That holds for level 1 only, and only since vLLM #53508
(0.27 lost LoRA's state). The prefix cache is emptied by vLLM when it falls asleep.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final, Protocol

from narrowcast import logs
from narrowcast.errors import Conflict, Unavailable
from narrowcast_inference.settings import settings_from_environment

_OFFLOAD_WEIGHTS: Final = 1
_POLL_S: Final = 0.05
_CUT_GRACE_S: Final = 5.0
"""What was cut off gets this long to leave the engine; the engine then aborts the rest itself."""
_WAKE_RETRY_S: Final = 5.0
_WAKE_PATIENCE_S: Final = 120.0
"""A killed training process gives its memory back within seconds."""

log = logs.get(__name__)


class Engine(Protocol):
    """What we need of vLLM's engine client."""

    async def sleep(self, level: int = 1, mode: Any = "abort") -> None:
        """Stop scheduling, then free the GPU."""

    async def wake_up(self, tags: list[str] | None = None) -> bool:
        """Take the GPU back; return whether all of it is."""

    async def collective_rpc(self, method: str, *, kwargs: dict[str, Any] | None = None) -> Any:
        """Call a method of each worker."""


class Phase(StrEnum):
    """Where the server stands."""

    SERVING = "serving"
    PAUSING = "pausing"
    """Takes no requests; those in flight end, then the engine falls asleep."""
    ASLEEP = "asleep"
    """The GPU's memory is free."""
    WAKING = "waking"


def _end_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class GpuLease:
    """At most one holder at a time, for no longer than it keeps renewing. Of one event loop.

    Args:
        drain_s: seconds that requests in flight get to end before they are cut off.
        give_up: ends the server when its engine can neither sleep nor wake; a fresh one will.
        retry_s: seconds between attempts to wake up.
        patience_s: seconds of such attempts before giving up.
    """

    def __init__(
        self,
        drain_s: float,
        give_up: Callable[[], None] = _end_process,
        retry_s: float = _WAKE_RETRY_S,
        patience_s: float = _WAKE_PATIENCE_S,
    ) -> None:
        self._drain_s = drain_s
        self._give_up = give_up
        self._retry_s = retry_s
        self._patience_s = patience_s
        self._running: set[asyncio.Event] = set()
        self._expires_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self.phase = Phase.SERVING
        self.holder: str | None = None
        self.engine_has_memory = True
        """False from when the engine is told to sleep until it is awake: no adapter may be loaded then."""

    def hold(self, engine: Engine, holder: str, ttl_s: float) -> Phase:
        """Take the lease, or renew it; to be repeated until asleep, and then within every ``ttl_s``.

        Returns:
            The phase. While it is ``WAKING`` the lease cannot be had yet.

        Raises:
            Conflict: somebody else has it.
        """
        if self.phase is Phase.WAKING:
            return self.phase
        if self.holder not in {None, holder}:
            raise Conflict("another job has the GPU", code="gpu_lease_held")
        self._expires_at = time.monotonic() + ttl_s
        self.holder = holder
        if self.phase is Phase.SERVING:
            self.phase = Phase.PAUSING
            self._task = asyncio.create_task(self._lend(engine))
        return self.phase

    def release(self, holder: str) -> None:
        """Give the lease back; who does not have it changes nothing."""
        if self.holder == holder:
            self._expires_at = 0.0

    @contextmanager
    def admitted(self) -> Iterator[asyncio.Event]:
        """Count a request as in flight; the event is set when it must end at once.

        Raises:
            Unavailable: ``gpu_busy_training``.
        """
        if self.phase is not Phase.SERVING:
            raise busy_training()
        cut = asyncio.Event()
        self._running.add(cut)
        try:
            yield cut
        finally:
            self._running.discard(cut)

    async def _lend(self, engine: Engine) -> None:
        log.info("gpu lease taken", holder=self.holder, in_flight=len(self._running))
        await self._drain()
        try:
            if self._wanted():
                self.engine_has_memory = False
                await engine.sleep(_OFFLOAD_WEIGHTS, "abort")
                self.phase = Phase.ASLEEP
                log.info("asleep", holder=self.holder)
                await self._sleep_while_wanted_and_wake(engine)
        except Exception:
            # Half asleep: only a new process is known to be right. Until then nothing is admitted.
            log.critical("the engine cannot sleep or wake", exc_info=True)
            self._give_up()
            return
        self.holder, self.phase = None, Phase.SERVING
        log.info("serving again")

    async def _drain(self) -> None:
        def over() -> bool:
            return not (self._running and self._wanted())

        await _until(over, self._drain_s)
        if not over():
            log.warning("requests cut off", requests=len(self._running), after_s=self._drain_s)
            for cut in self._running:
                cut.set()
            await _until(over, _CUT_GRACE_S)

    async def _sleep_while_wanted_and_wake(self, engine: Engine) -> None:
        failing_since: float | None = None
        while True:
            if self._wanted():
                failing_since = None
                await _until(lambda: not self._wanted())
            self.phase = Phase.WAKING
            try:
                if await engine.wake_up():
                    self.engine_has_memory = True
                    return
                raise RuntimeError("only a part of the GPU's memory came back")
            except Exception as error:
                failing_since = failing_since or time.monotonic()
                if time.monotonic() - failing_since >= self._patience_s:
                    raise
                log.warning("cannot wake up yet", holder=self.holder, exc_info=error)
            # Somebody still uses the memory, maybe a training whose renewals were lost: leave it
            # what was taken of it, and let the lease be taken up again. The engine counts itself
            # as asleep and would not pass this on, so the workers are told directly.
            try:
                await engine.collective_rpc("sleep", kwargs={"level": _OFFLOAD_WEIGHTS})
            except Exception as error:
                # vLLM measures what it has freed by the whole card, where somebody else has just taken
                # more. What it let go of is gone by then; if not, the next wake-up fails, and so ends.
                log.warning("cannot tell what was let go of", holder=self.holder, exc_info=error)
            self.holder, self.phase = None, Phase.ASLEEP
            await _until(self._wanted, self._retry_s)

    def _wanted(self) -> bool:
        return time.monotonic() < self._expires_at


async def _until(condition: Callable[[], bool], within_s: float = float("inf")) -> None:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110 - the clock sets no event
        await asyncio.sleep(_POLL_S)


def busy_training() -> Unavailable:
    """Return the error of a request that comes while the GPU is lent."""
    return Unavailable(
        "a training job has the GPU; the model is served again when it ends", code="gpu_busy_training"
    )


@lru_cache(maxsize=1)
def lease_from_environment() -> GpuLease:
    """Return this process's lease."""
    return GpuLease(settings_from_environment().inference.gpu_drain_s)

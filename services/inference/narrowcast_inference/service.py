"""Finds adapters by their serving name: with a time limit, one flight a name, and a short memory of failures.

Shared by vLLM's resolver and the status route; free of vllm.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from narrowcast import logs
from narrowcast.adapters import parse_serving_name, published_adapters
from narrowcast.errors import NarrowcastError, NotFound, Unavailable
from narrowcast.storage import Bucket, Storage
from narrowcast_inference.cache import AdapterCache
from narrowcast_inference.metrics import count_load
from narrowcast_inference.settings import settings_from_environment
from narrowcast_inference.usage import AdapterUsage

_DOWNLOADS: Final = 4
"""Threads of our own: an object store that hangs must not take those in which vLLM tokenizes."""
_REMEMBER_MISS_S: Final = 1.0
"""Short: the adapter may be published right after."""
_REMEMBER_FAULT_S: Final = 15.0
"""A stored adapter does not repair itself, but an operator may repair it."""
_REMEMBERED: Final = 1024

log = logs.get(__name__)


@dataclass
class Outcome:
    """What the resolver did for one HTTP request; filled in by it, read by the middleware."""

    error: NarrowcastError | None = None


outcome: ContextVar[Outcome | None] = ContextVar("narrowcast_outcome", default=None)


class AdapterService:
    """See the module."""

    def __init__(self, cache: AdapterCache, timeout_s: float, usage: AdapterUsage | None = None) -> None:
        self._cache = cache
        self._usage = usage or AdapterUsage()
        self._timeout_s = timeout_s
        self._executor = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="adapter")
        self._flights: dict[str, asyncio.Future[Path]] = {}
        self._failures: dict[str, tuple[float, NarrowcastError]] = {}

    async def locate(self, name: str) -> Path:
        """Return the folder of the adapter that is served under ``name``.

        Raises:
            NarrowcastError: whatever goes wrong, with a code and a message fit to be shown.
        """
        parsed = parse_serving_name(name)
        if parsed is None:
            raise NotFound("no such adapter")
        if (remembered := self._failures.get(name)) and remembered[0] > time.monotonic():
            raise remembered[1]
        flight = self._flights.get(name)
        if flight is None:
            loop = asyncio.get_running_loop()
            flight = loop.run_in_executor(self._executor, self._cache.ensure, *parsed)
            self._flights[name] = flight
            started = time.monotonic()
            flight.add_done_callback(lambda done: self._landed(name, done, time.monotonic() - started))
        try:
            # Shielded: neither a client that hangs up nor the limit stops what others wait for.
            return await asyncio.wait_for(asyncio.shield(flight), self._timeout_s)
        except TimeoutError as error:
            raise Unavailable(f"{parsed[1]} is not here yet", code="adapter_timeout") from error
        except NarrowcastError:
            raise
        except Exception as error:
            raise NarrowcastError(f"{parsed[1]} cannot be loaded", code="internal_error") from error

    @contextmanager
    def using(self, name: str, vllm: Any) -> Iterator[None]:
        """Keep the adapter ``name``, if it is one, in the cache meanwhile, and for a while after.

        Args:
            name: the model a request asks for.
            vllm: ``app.state`` of vLLM's web server.
        """
        with self._usage.using(name, vllm):
            try:
                yield
            finally:
                if parsed := parse_serving_name(name):
                    self._cache.touch(*parsed)

    def _landed(self, name: str, flight: asyncio.Future[Path], seconds: float) -> None:
        self._flights.pop(name, None)
        error = None if flight.cancelled() else flight.exception()
        if not flight.cancelled():
            count_load(error, seconds)
        if error is None:
            self._failures.pop(name, None)
            return
        if isinstance(error, NotFound):
            log.info("adapter not found", adapter=name)
        else:
            code = error.code if isinstance(error, NarrowcastError) else "internal_error"
            log.error("adapter refused", adapter=name, code=code, exc_info=error)
        if isinstance(error, NarrowcastError):
            transient = isinstance(error, (NotFound, Unavailable))
            remember_s = _REMEMBER_MISS_S if transient else _REMEMBER_FAULT_S
            while len(self._failures) >= _REMEMBERED:
                self._failures.pop(next(iter(self._failures)))
            self._failures[name] = (time.monotonic() + remember_s, error)


@lru_cache(maxsize=1)
def service_from_environment() -> AdapterService:
    """Return this process's service; made at the first use, because plugins load in every vLLM process."""
    settings = settings_from_environment()
    section = settings.inference
    usage = AdapterUsage()
    models = Storage(settings.storage).models
    cache = AdapterCache(
        models,
        section.cache_dir,
        section.fingerprints,
        section.max_lora_rank,
        max_bytes=section.cache_max_bytes,
        min_free_mib=section.cache_min_free_mib,
        idle_s=section.cache_idle_s,
        lock_timeout_s=section.resolve_timeout_s,
        forget=usage.forget,
    )
    threading.Thread(
        target=_remove_deleted,
        args=(cache, models, section.cache_check_s),
        name="deleted-adapters",
        daemon=True,
    ).start()
    return AdapterService(cache, section.resolve_timeout_s, usage)


def _remove_deleted(cache: AdapterCache, models: Bucket, every_s: float) -> None:
    while True:
        time.sleep(every_s)
        try:
            cache.remove_deleted(lambda: published_adapters(models))
        except Exception:
            log.exception("cannot remove deleted adapters", code="internal_error")

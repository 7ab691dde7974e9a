"""Which adapters requests use, and vLLM's forgetting of one that none uses.

vLLM remembers every adapter it was ever asked for, and may read its folder again at any request
for it. Only what it has forgotten may go from the disk, hence :meth:`AdapterUsage.forget`.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from narrowcast import logs
from narrowcast_inference.gpu_lease import GpuLease, lease_from_environment

_FORGET_TIMEOUT_S: Final = 30.0
"""The engine answers between two steps; one step of a long prompt on a CPU takes seconds."""

log = logs.get(__name__)


class AdapterUsage:
    """Counts requests in flight by the model they name; of one event loop."""

    def __init__(self, lease: GpuLease | None = None) -> None:
        self._lease = lease
        self._in_flight: Counter[str] = Counter()
        self._vllm: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextmanager
    def using(self, name: str, vllm: Any) -> Iterator[None]:
        """Count a request for ``name``, from before vLLM looks for it until it is answered.

        Args:
            name: of the model, whatever it is.
            vllm: ``app.state`` of its web server.
        """
        self._vllm, self._loop = vllm, asyncio.get_running_loop()
        self._in_flight[name] += 1
        try:
            yield
        finally:
            self._in_flight[name] -= 1
            if not self._in_flight[name]:
                del self._in_flight[name]

    def in_flight(self, name: str) -> int:
        """Return how many requests for the model run."""
        return self._in_flight[name]

    def forget(self, name: str) -> bool:
        """Make vLLM forget an adapter; call it from a thread that is not the event loop's.

        Returns:
            Whether vLLM will not read it again before it asks the resolver anew.
        """
        if self._loop is None:
            return True  # no request came yet
        forgetting = asyncio.run_coroutine_threadsafe(self._forget(name), self._loop)
        try:
            return forgetting.result(_FORGET_TIMEOUT_S)
        except Exception as error:
            forgetting.cancel()
            log.warning("vLLM cannot forget an adapter", adapter=name, exc_info=error)
            return False

    async def _forget(self, name: str) -> bool:
        remembered = self._vllm.openai_serving_models.lora_requests
        # From here to the deletion nothing else runs: a request either is counted or finds no adapter.
        if self.in_flight(name):
            return False
        if name not in remembered:
            return True
        if not (self._lease or lease_from_environment()).engine_has_memory:
            return False
        number = remembered.pop(name).lora_int_id
        # Comes after the ends of requests whose clients have gone, which the engine is told of in turn.
        await self._vllm.engine_client.remove_lora(number)
        return True

"""vLLM's hook: an unknown model name becomes an adapter from S3."""

from collections.abc import Callable

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver

from narrowcast import logs
from narrowcast.errors import NarrowcastError
from narrowcast_inference.gpu_lease import GpuLease, busy_training, lease_from_environment
from narrowcast_inference.service import AdapterService, outcome, service_from_environment

_OVERWRITTEN_BY_VLLM = 1

log = logs.get(__name__)


class AdapterResolver(LoRAResolver):
    """Resolves ``<tenant>/<adapter id>``.

    It never raises: vLLM would send the exception's text to the client. None becomes a 404;
    the true reason goes to the log and, through :data:`~narrowcast_inference.service.outcome`,
    into a response header.
    """

    def __init__(
        self,
        service: Callable[[], AdapterService] = service_from_environment,
        lease: Callable[[], GpuLease] = lease_from_environment,
    ) -> None:
        self._service = service
        self._lease = lease

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """Return what vLLM loads, or None."""
        try:
            folder = await self._service().locate(lora_name)
            # vLLM would write it into slots that are not there while the engine sleeps, and not survive it.
            # Requests are refused before, all but those for tokens and those that were cut off.
            if not self._lease().engine_has_memory:
                raise busy_training()
        except NarrowcastError as error:
            if (current := outcome.get()) is not None:
                current.error = error
            return None
        except Exception:
            log.exception("resolver failed", code="internal_error")
            if (current := outcome.get()) is not None:
                current.error = NarrowcastError("the adapter cannot be loaded", code="internal_error")
            return None
        return LoRARequest(lora_name=lora_name, lora_int_id=_OVERWRITTEN_BY_VLLM, lora_path=str(folder))

"""What users have deleted, for those who may still hold it."""

from typing import Any, Final

import redis

from narrowcast.adapters import parse_serving_name, serving_name


class DeletedAdapters:
    """Which adapters have been deleted: known to Redis before the first of their files is gone.

    Another gateway may have a manifest in memory, vLLM the weights, and what the object store did not
    delete at once a trainer does later.
    """

    _KEY: Final = "nc:adapters:deleted"
    """A set of serving names."""

    def __init__(self, client: redis.Redis) -> None:
        # redis-py types every answer as "bytes or str, or an awaitable of them"; ours decodes and is sync.
        self._redis: Any = client

    def add(self, tenant: str, adapter_id: str) -> None:
        """Nobody is to use this one any more."""
        self._redis.sadd(self._KEY, serving_name(tenant, adapter_id))

    def of_tenant(self, tenant: str) -> set[str]:
        """Return the ids of a tenant's deleted adapters."""
        names = (parse_serving_name(name) for name in self._redis.sscan_iter(self._KEY, f"{tenant}/*"))
        return {name[1] for name in names if name is not None and name[0] == tenant}

    def has(self, tenant: str, adapter_id: str) -> bool:
        """Whether it is deleted."""
        return bool(self._redis.sismember(self._KEY, serving_name(tenant, adapter_id)))

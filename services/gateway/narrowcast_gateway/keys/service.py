"""API keys in Redis, by their hash only."""

import hashlib
import secrets
import time
from typing import Any

import redis
from pydantic import BaseModel

from narrowcast import ids
from narrowcast.errors import InvalidInput, Unauthenticated

_PREFIX = "nc-"
_SECRET_BYTES = 32
_KEYS = "nc:api-keys"


class ApiKey(BaseModel):
    """What is stored of a key."""

    id: str
    tenant: str
    created_at: float


class ApiKeys:
    """Creates, looks up and revokes keys.

    A key is 256 random bits, so a plain SHA-256 is as good as a slow password hash here:
    there is nothing to guess.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis: Any = client

    def create(self, tenant: str) -> str:
        """Create a key of ``tenant`` and return it; it cannot be read again.

        Raises:
            InvalidInput: the tenant's name is not usable.
        """
        if not ids.TENANT.match(tenant):
            raise InvalidInput(
                "a tenant's name has 1 to 32 lower-case letters, digits and inner hyphens",
                code="invalid_tenant",
                param="tenant",
            )
        key = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        record = ApiKey(id=ids.new_id("key"), tenant=tenant, created_at=time.time())
        self._redis.hset(_KEYS, _hash(key), record.model_dump_json())
        return key

    def authenticate(self, key: str) -> ApiKey:
        """Return whose key this is.

        Raises:
            Unauthenticated: nobody's.
        """
        raw = self._redis.hget(_KEYS, _hash(key)) if key.startswith(_PREFIX) else None
        if raw is None:
            raise Unauthenticated("the API key is not valid")
        return ApiKey.model_validate_json(raw)

    def listing(self) -> list[ApiKey]:
        """Return all keys' records, oldest first."""
        records = [ApiKey.model_validate_json(raw) for raw in self._redis.hvals(_KEYS)]
        return sorted(records, key=lambda record: record.created_at)

    def revoke(self, key_id: str) -> bool:
        """Forget the key with this id; return whether there was one."""
        for digest, raw in self._redis.hgetall(_KEYS).items():
            if ApiKey.model_validate_json(raw).id == key_id:
                return bool(self._redis.hdel(_KEYS, digest))
        return False


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()

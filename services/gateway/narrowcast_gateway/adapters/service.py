"""Which models a tenant may name, and how vLLM knows them."""

from dataclasses import dataclass
from functools import lru_cache

from narrowcast import ids, logs
from narrowcast.adapters import ADAPTERS, AdapterManifest, adapter_prefix, serving_name
from narrowcast.artifacts import discard, read_file, read_manifest
from narrowcast.connections import Connections
from narrowcast.deletions import DeletedAdapters
from narrowcast.errors import Conflict, InvalidInput, NotFound
from narrowcast_gateway.settings import ServersSettings

_CACHED_MANIFESTS = 16_384
_log = logs.get(__name__)


@dataclass(frozen=True)
class ModelTarget:
    """Where a request for a model goes."""

    name: str
    """As the user knows it."""
    served_as: str
    """As vLLM knows it."""
    url: str
    adapter: AdapterManifest | None
    """None for a base model."""
    tenant: str
    """Who asks."""


class Adapters:
    """The adapters in the models bucket. A manifest never changes, so it is read once."""

    def __init__(self, connections: Connections, settings: ServersSettings) -> None:
        self._bucket = connections.storage.models
        self._jobs = connections.jobs
        self._deleted = DeletedAdapters(connections.redis)
        self._bases = settings.bases

        @lru_cache(maxsize=_CACHED_MANIFESTS)
        def read(tenant: str, adapter_id: str) -> AdapterManifest:
            return read_manifest(self._bucket, adapter_prefix(tenant, adapter_id), AdapterManifest)

        self._read = read

    def bases(self) -> list[str]:
        """Return the names of the base models."""
        return sorted(self._bases)

    def get(self, tenant: str, adapter_id: str, *, param: str = "model") -> AdapterManifest:
        """Return an adapter of ``tenant``, which the request names in ``param``.

        Raises:
            NotFound: the tenant has no such adapter.
        """
        if adapter_id in self._bases:
            raise NotFound(
                f"{adapter_id} is a base model, not an adapter", code="model_not_found", param=param
            )
        if not ids.ADAPTER_ID.match(adapter_id):
            raise _no_model(adapter_id, param)
        if self._deleted.has(tenant, adapter_id):
            raise _no_model(adapter_id, param)
        try:
            return self._read(tenant, adapter_id)
        except NotFound:
            raise _no_model(adapter_id, param) from None

    def of_tenant(self, tenant: str) -> list[AdapterManifest]:
        """Return the tenant's adapters, newest first."""
        manifests = []
        deleted = self._deleted.of_tenant(tenant)
        for adapter_id in self._bucket.folders(f"{ADAPTERS}{tenant}/"):
            if adapter_id in deleted:
                continue  # its files are not all gone yet
            try:
                manifests.append(self._read(tenant, adapter_id))
            except NotFound:
                continue  # its files are there but not its manifest: still being published
        return sorted(manifests, key=lambda manifest: manifest.created_at, reverse=True)

    def delete(self, tenant: str, adapter_id: str) -> None:
        """Delete an adapter with its card. From now on no gateway lets a request for it pass.

        vLLM keeps what it has loaded until it starts again, where nobody reaches it. Exports stay.

        Raises:
            NotFound: the tenant has no such adapter.
            InvalidInput: ``base_model_not_deletable``.
            Conflict: ``job_not_ended``, the job that made it might publish it anew.
            Unavailable: the object store failed; trying again is safe, or a trainer deletes what is left.
        """
        if adapter_id in self._bases:
            raise InvalidInput(
                "base models belong to the site: remove it from the servers' configuration",
                code="base_model_not_deletable",
                param="model",
            )
        if not ids.ADAPTER_ID.match(adapter_id):
            raise _no_model(adapter_id)
        prefix = adapter_prefix(tenant, adapter_id)
        try:
            # From the store: the one in memory may be that of a deleted adapter.
            maker = read_manifest(self._bucket, prefix, AdapterManifest).job
        except NotFound:
            if self._deleted.has(tenant, adapter_id) and discard(self._bucket, prefix):
                return  # the rest of one that could not be deleted at once
            raise _no_model(adapter_id) from None
        if self._is_running(tenant, maker):
            raise Conflict(
                f"job {maker}, which made it, has not ended; cancel it first", code="job_not_ended"
            )
        self._deleted.add(tenant, adapter_id)
        discard(self._bucket, prefix)
        _log.info("adapter_deleted", adapter=adapter_id, tenant=tenant)

    def _is_running(self, tenant: str, job_id: str) -> bool:
        try:
            return not self._jobs.get(job_id, tenant=tenant).status.terminal
        except NotFound:
            return False  # Redis was lost, and the job with it

    def card_hash(self, tenant: str, adapter_id: str, name: str) -> str:
        """Return the SHA-256 of a file of an adapter's training card (see :mod:`narrowcast.cards`).

        Raises:
            NotFound: the tenant has no such adapter, or the adapter no card.
        """
        entry = self.get(tenant, adapter_id).files.get(name)
        if entry is None:
            raise NotFound(f"{adapter_id} has no training card", code="no_training_card")
        return entry.sha256

    def card_file(self, tenant: str, adapter_id: str, name: str) -> bytes:
        """Return a file of an adapter's training card, verified.

        Raises:
            NotFound: as :meth:`card_hash`.
        """
        self.card_hash(tenant, adapter_id, name)
        manifest = self.get(tenant, adapter_id)
        try:
            return read_file(self._bucket, adapter_prefix(tenant, adapter_id), manifest, name)
        except NotFound:
            raise _no_model(adapter_id, "model") from None  # deleted since its manifest was read

    def resolve(self, tenant: str, model: str) -> ModelTarget:
        """Return where a request of ``tenant`` for ``model`` goes.

        Unknown names end here: vLLM must never see one, since it keeps a lock for each.

        Raises:
            NotFound: neither a base model nor an adapter of the tenant, or its base is not served.
        """
        if model in self._bases:
            return ModelTarget(
                name=model, served_as=model, url=str(self._bases[model]), adapter=None, tenant=tenant
            )
        manifest = self.get(tenant, model)
        url = self._bases.get(manifest.base.name)
        if url is None:
            raise NotFound(
                f"the base model of {model}, {manifest.base.name}, is not served here",
                code="base_model_not_served",
                param="model",
            )
        served_as = serving_name(tenant, model)
        return ModelTarget(name=model, served_as=served_as, url=str(url), adapter=manifest, tenant=tenant)


def _no_model(model: str, param: str = "model") -> NotFound:
    # A name that could be an id is repeated; anything else may be any text.
    shown = f"model {model}" if ids.ADAPTER_ID.match(model) else "the model"
    return NotFound(f"{shown} does not exist", code="model_not_found", param=param)

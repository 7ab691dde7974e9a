"""``/v1/models`` in OpenAI's shape, ``/v1/adapters`` with the whole manifest."""

from fastapi import APIRouter

from narrowcast_gateway.adapters.schemas import Adapter, Model, ModelList
from narrowcast_gateway.deps import ServicesDep, TenantDep
from narrowcast_gateway.schemas import Page

router = APIRouter(tags=["models"])


def _base(name: str) -> Model:
    return Model(id=name, created=0, owned_by="narrowcast")


@router.get("/models")
def list_models(services: ServicesDep, tenant: TenantDep) -> ModelList:
    """List the base models and the tenant's adapters."""
    adapters = [
        Model(id=m.id, created=int(m.created_at), owned_by=tenant, parent=m.base.name)
        for m in services.adapters.of_tenant(tenant)
    ]
    return ModelList(data=[*map(_base, services.adapters.bases()), *adapters])


@router.get("/models/{model}")
def get_model(model: str, services: ServicesDep, tenant: TenantDep) -> Model:
    """Return one base model or adapter."""
    if model in services.adapters.bases():
        return _base(model)
    manifest = services.adapters.get(tenant, model)
    return Model(id=manifest.id, created=int(manifest.created_at), owned_by=tenant, parent=manifest.base.name)


@router.get("/adapters")
def list_adapters(services: ServicesDep, tenant: TenantDep) -> Page[Adapter]:
    """List the tenant's adapters, newest first."""
    return Page(data=[Adapter.of(manifest) for manifest in services.adapters.of_tenant(tenant)])


@router.get("/adapters/{adapter_id}")
def get_adapter(adapter_id: str, services: ServicesDep, tenant: TenantDep) -> Adapter:
    """Return one adapter with its manifest's fields."""
    return Adapter.of(services.adapters.get(tenant, adapter_id))

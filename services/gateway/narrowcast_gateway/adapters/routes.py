"""``/v1/models`` in OpenAI's shape, ``/v1/adapters`` with the whole manifest and the training card."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Response

from narrowcast.cards import CARD, CARD_TEXT, LOSS_PNG, LOSS_SVG, TrainingCard
from narrowcast_gateway.adapters.schemas import Adapter, Model, ModelList
from narrowcast_gateway.deps import KeyedRoute, ServicesDep, TenantDep
from narrowcast_gateway.schemas import Deleted, Page

router = APIRouter(tags=["models"], route_class=KeyedRoute)
IfNoneMatch = Annotated[str | None, Header(description="The `ETag` of an earlier answer.")]


def _base(name: str) -> Model:
    return Model(id=name, created=0, owned_by="narrowcast")


def _content(media_type: str, model: type[TrainingCard] | None = None) -> dict[int | str, dict[str, Any]]:
    answer: dict[str, Any] = {"model": model} if model else {"content": {media_type: {}}}
    return {200: answer, 304: {"description": "As it was; the body is left out."}}


def _card_file(
    services: ServicesDep, tenant: str, adapter_id: str, name: str, known: str | None, media_type: str
) -> Response:
    # An adapter's files never change; but it may be deleted, so each use is asked for anew.
    etag = f'"{services.adapters.card_hash(tenant, adapter_id, name)}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if known is not None and (known.strip() == "*" or etag in known):
        return Response(status_code=304, headers=headers)
    content = services.adapters.card_file(tenant, adapter_id, name)
    return Response(content, media_type=media_type, headers=headers)


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


@router.delete("/models/{model}")
def delete_model(model: str, services: ServicesDep, tenant: TenantDep) -> Deleted:
    """Delete an adapter; no request for it is answered from then on. Its exports stay."""
    services.adapters.delete(tenant, model)
    return Deleted(id=model, object="model")


@router.get("/adapters")
def list_adapters(services: ServicesDep, tenant: TenantDep) -> Page[Adapter]:
    """List the tenant's adapters, newest first."""
    return Page(data=[Adapter.of(manifest) for manifest in services.adapters.of_tenant(tenant)])


@router.get("/adapters/{adapter_id}")
def get_adapter(adapter_id: str, services: ServicesDep, tenant: TenantDep) -> Adapter:
    """Return one adapter with its manifest's fields."""
    return Adapter.of(services.adapters.get(tenant, adapter_id))


@router.get(
    "/adapters/{adapter_id}/card",
    response_class=Response,
    responses=_content("application/json", TrainingCard),
)
def get_training_card(
    adapter_id: str, services: ServicesDep, tenant: TenantDep, if_none_match: IfNoneMatch = None
) -> Response:
    """Return the adapter's training card: configuration, time and memory, losses of every step."""
    return _card_file(services, tenant, adapter_id, CARD, if_none_match, "application/json")


@router.get("/adapters/{adapter_id}/card.md", response_class=Response, responses=_content("text/markdown"))
def get_training_card_text(
    adapter_id: str, services: ServicesDep, tenant: TenantDep, if_none_match: IfNoneMatch = None
) -> Response:
    """Return the training card as a model card in Markdown, with Hugging Face's front matter."""
    return _card_file(services, tenant, adapter_id, CARD_TEXT, if_none_match, "text/markdown; charset=utf-8")


@router.get("/adapters/{adapter_id}/loss.png", response_class=Response, responses=_content("image/png"))
def get_loss_png(
    adapter_id: str, services: ServicesDep, tenant: TenantDep, if_none_match: IfNoneMatch = None
) -> Response:
    """Return the loss figure as a bitmap."""
    return _card_file(services, tenant, adapter_id, LOSS_PNG, if_none_match, "image/png")


@router.get("/adapters/{adapter_id}/loss.svg", response_class=Response, responses=_content("image/svg+xml"))
def get_loss_svg(
    adapter_id: str, services: ServicesDep, tenant: TenantDep, if_none_match: IfNoneMatch = None
) -> Response:
    """Return the loss figure as vectors."""
    return _card_file(services, tenant, adapter_id, LOSS_SVG, if_none_match, "image/svg+xml")

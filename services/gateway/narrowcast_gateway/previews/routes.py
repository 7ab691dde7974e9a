"""``/v1/fine_tuning/previews``."""

from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import PlainTextResponse

from narrowcast_gateway.deps import KeyedRoute, ServicesDep, TenantDep
from narrowcast_gateway.previews.accepting import prefers_text
from narrowcast_gateway.previews.schemas import CreatePreview, FineTuningPreview

router = APIRouter(prefix="/fine_tuning/previews", tags=["fine-tuning"], route_class=KeyedRoute)


@router.post(
    "",
    response_model=FineTuningPreview,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def create_fine_tuning_preview(
    request: CreatePreview,
    services: ServicesDep,
    tenant: TenantDep,
    accept: Annotated[str, Header(description="`text/plain` for an answer to be read.")] = "*/*",
) -> FineTuningPreview | PlainTextResponse:
    """Show rows as the model would see them in training, and which tokens are trained; no GPU is used.

    It is rendered by the served base's own chat template. As `text/plain`, what is trained stands
    between ⟦ and ⟧.
    """
    with request.naming():
        preview = FineTuningPreview.of(await services.previews.create(tenant, request.question()))
    if prefers_text(accept):
        return PlainTextResponse(preview.as_text())
    return preview

"""``/v1/fine_tuning/estimates``."""

from fastapi import APIRouter

from narrowcast_gateway.deps import KeyedRoute, ServicesDep, TenantDep
from narrowcast_gateway.estimates.schemas import CreateEstimate, FineTuningEstimate

router = APIRouter(prefix="/fine_tuning/estimates", tags=["fine-tuning"], route_class=KeyedRoute)


@router.post("")
async def create_fine_tuning_estimate(
    request: CreateEstimate, services: ServicesDep, tenant: TenantDep
) -> FineTuningEstimate:
    """Say what a training will need, and what to change if it does not fit; nothing is queued."""
    with request.naming():
        return FineTuningEstimate.of(await services.estimates.create(tenant, request.question()))

"""``/v1/evaluations``."""

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from narrowcast.jobs.once import Once
from narrowcast_gateway.deps import AfterQuery, IdempotencyKey, KeyedRoute, LimitQuery, ServicesDep, TenantDep
from narrowcast_gateway.evaluation.schemas import CreateEvaluation, Evaluation, EvaluationSpec
from narrowcast_gateway.schemas import Deleted, Page

router = APIRouter(prefix="/evaluations", tags=["evaluations"], route_class=KeyedRoute)


@router.post("", status_code=202)
def create_evaluation(
    request: CreateEvaluation, services: ServicesDep, tenant: TenantDep, key: IdempotencyKey = None
) -> Evaluation:
    """Queue an evaluation of models on a dataset's split, beside the nearest-report baseline."""
    spec = EvaluationSpec.model_validate(request.model_dump())
    once = Once.of(key, spec.model_dump_json()) if key else None
    return Evaluation.of(services.evaluations.create(tenant, spec, once))


@router.get("")
def list_evaluations(
    services: ServicesDep, tenant: TenantDep, after: AfterQuery = None, limit: LimitQuery = 20
) -> Page[Evaluation]:
    """List the tenant's evaluations, newest first."""
    jobs, more = services.evaluations.page(tenant, after, limit)
    return Page(data=[Evaluation.of(job) for job in jobs], has_more=more)


@router.get("/{evaluation_id}")
def get_evaluation(evaluation_id: str, services: ServicesDep, tenant: TenantDep) -> Evaluation:
    """Return one evaluation with its ROUGE table once it has succeeded."""
    return Evaluation.of(services.evaluations.get(tenant, evaluation_id))


@router.post("/{evaluation_id}/cancel")
def cancel_evaluation(evaluation_id: str, services: ServicesDep, tenant: TenantDep) -> Evaluation:
    """Stop an evaluation."""
    return Evaluation.of(services.evaluations.cancel(tenant, evaluation_id))


@router.delete("/{evaluation_id}")
def delete_evaluation(evaluation_id: str, services: ServicesDep, tenant: TenantDep) -> Deleted:
    """Delete an ended evaluation and its answers, which repeat the dataset's texts."""
    services.evaluations.delete(tenant, evaluation_id)
    return Deleted(id=evaluation_id, object="evaluation")


@router.get("/{evaluation_id}/predictions", response_class=StreamingResponse)
def get_evaluation_predictions(
    evaluation_id: str, services: ServicesDep, tenant: TenantDep
) -> StreamingResponse:
    """Download every answer beside its reference, as JSON Lines."""
    return StreamingResponse(
        services.evaluations.predictions(tenant, evaluation_id), media_type="application/jsonl"
    )

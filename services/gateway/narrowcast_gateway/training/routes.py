"""``/v1/fine_tuning/jobs``."""

from fastapi import APIRouter

from narrowcast_gateway.deps import AfterQuery, LimitQuery, ServicesDep, TenantDep
from narrowcast_gateway.schemas import Page
from narrowcast_gateway.training.schemas import (
    CreateFineTuningJob,
    FineTuningEvent,
    FineTuningJob,
    merge,
)

router = APIRouter(prefix="/fine_tuning/jobs", tags=["fine-tuning"])


@router.post("")
def create_fine_tuning_job(
    request: CreateFineTuningJob, services: ServicesDep, tenant: TenantDep
) -> FineTuningJob:
    """Queue a training job."""
    job = services.training.create(
        tenant,
        base_model=request.model,
        training_file=request.training_file,
        validation_file=request.validation_file,
        suffix=request.suffix,
        hyperparameters=merge(request),
    )
    return FineTuningJob.of(job)


@router.get("")
def list_fine_tuning_jobs(
    services: ServicesDep, tenant: TenantDep, after: AfterQuery = None, limit: LimitQuery = 20
) -> Page[FineTuningJob]:
    """List the tenant's jobs, newest first."""
    jobs, more = services.training.page(tenant, after, limit)
    return Page(data=[FineTuningJob.of(job) for job in jobs], has_more=more)


@router.get("/{job_id}")
def get_fine_tuning_job(job_id: str, services: ServicesDep, tenant: TenantDep) -> FineTuningJob:
    """Return one job."""
    return FineTuningJob.of(services.training.get(tenant, job_id))


@router.get("/{job_id}/events")
def list_fine_tuning_events(
    job_id: str, services: ServicesDep, tenant: TenantDep, after: AfterQuery = None, limit: LimitQuery = 20
) -> Page[FineTuningEvent]:
    """List a job's events, newest first."""
    events, more = services.training.events(tenant, job_id, after, limit)
    return Page(data=[FineTuningEvent.of(event) for event in events], has_more=more)


@router.post("/{job_id}/cancel")
def cancel_fine_tuning_job(job_id: str, services: ServicesDep, tenant: TenantDep) -> FineTuningJob:
    """Cancel a job: at once while it is queued, at the end of the current step while it runs."""
    return FineTuningJob.of(services.training.cancel(tenant, job_id))

"""``/v1/fine_tuning/jobs``."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import StreamingResponse

from narrowcast.cards import CARD, CARD_TEXT, LOSS_PNG, LOSS_SVG, STEP_METRICS, TrainingCard
from narrowcast.jobs.once import Once
from narrowcast_gateway.deps import (
    AfterQuery,
    EventStreamsDep,
    IdempotencyKey,
    KeyedRoute,
    LimitQuery,
    ServicesDep,
    TenantDep,
)
from narrowcast_gateway.schemas import Page
from narrowcast_gateway.training.schemas import (
    CancelFineTuningJob,
    CreateFineTuningJob,
    FineTuningCheckpoint,
    FineTuningEvent,
    FineTuningJob,
)

router = APIRouter(prefix="/fine_tuning/jobs", tags=["fine-tuning"], route_class=KeyedRoute)


def _content(media_type: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {media_type: {}}}}


@router.post("")
def create_fine_tuning_job(
    request: CreateFineTuningJob, services: ServicesDep, tenant: TenantDep, key: IdempotencyKey = None
) -> FineTuningJob:
    """Queue a training job."""
    with request.naming():
        job = services.training.create(
            tenant,
            base_model=request.model,
            training_file=request.training_file,
            validation_file=request.validation_file,
            suffix=request.suffix,
            hyperparameters=request.given(),
            schedule=request.schedule(),
            once=Once.of(key, request.model_dump_json()) if key else None,
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


@router.get(
    "/{job_id}/events",
    response_model=Page[FineTuningEvent],
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
def list_fine_tuning_events(
    job_id: str,
    services: ServicesDep,
    streams: EventStreamsDep,
    tenant: TenantDep,
    after: AfterQuery = None,
    limit: LimitQuery = 20,
    stream: Annotated[
        bool, Query(description="Server-sent events, oldest first, until the job ends.")
    ] = False,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Page[FineTuningEvent] | StreamingResponse:
    """List a job's events, newest first.

    With `stream` each event is sent as it comes, oldest first: `id: <id>`, `data: <event>`, and
    `data: [DONE]` once the job has ended. A lost connection is taken up with the header
    `Last-Event-ID`, which browsers send of their own, or with `after`; `limit` does not apply.
    """
    if stream:
        if last_event_id:
            return streams.response(tenant, job_id, last_event_id, param="Last-Event-ID")
        return streams.response(tenant, job_id, after)
    events, more = services.training.events(tenant, job_id, after, limit)
    return Page(data=[FineTuningEvent.of(event) for event in events], has_more=more)


@router.get("/{job_id}/checkpoints")
def list_fine_tuning_checkpoints(
    job_id: str, services: ServicesDep, tenant: TenantDep, after: AfterQuery = None, limit: LimitQuery = 10
) -> Page[FineTuningCheckpoint]:
    """List the checkpoints that a job would be resumed from, newest first; an ended job has none."""
    job = services.training.get(tenant, job_id)
    found, more = services.training.checkpoints(tenant, job_id, after, limit)
    data = [FineTuningCheckpoint.of(job, checkpoint) for checkpoint in found]
    ends = {"first_id": data[0].id, "last_id": data[-1].id} if data else {}
    return Page(data=data, has_more=more, **ends)


@router.get("/{job_id}/card", response_class=Response, responses={200: {"model": TrainingCard}})
def get_job_card(job_id: str, services: ServicesDep, tenant: TenantDep) -> Response:
    """Return the job's training card; that of a failed one says how far it came, with its losses."""
    return Response(services.job_cards.file(tenant, job_id, CARD), media_type="application/json")


@router.get("/{job_id}/card.md", response_class=Response, responses=_content("text/markdown"))
def get_job_card_text(job_id: str, services: ServicesDep, tenant: TenantDep) -> Response:
    """Return the job's training card in Markdown."""
    content = services.job_cards.file(tenant, job_id, CARD_TEXT)
    return Response(content, media_type="text/markdown; charset=utf-8")


@router.get("/{job_id}/loss.png", response_class=Response, responses=_content("image/png"))
def get_job_loss_png(job_id: str, services: ServicesDep, tenant: TenantDep) -> Response:
    """Return the job's loss figure as a bitmap."""
    return Response(services.job_cards.file(tenant, job_id, LOSS_PNG), media_type="image/png")


@router.get("/{job_id}/loss.svg", response_class=Response, responses=_content("image/svg+xml"))
def get_job_loss_svg(job_id: str, services: ServicesDep, tenant: TenantDep) -> Response:
    """Return the job's loss figure as vectors."""
    return Response(services.job_cards.file(tenant, job_id, LOSS_SVG), media_type="image/svg+xml")


@router.get("/{job_id}/step_metrics.csv", response_class=Response, responses=_content("text/csv"))
def get_job_step_metrics(job_id: str, services: ServicesDep, tenant: TenantDep) -> Response:
    """Return the table of the job's steps, all of them."""
    content = services.job_cards.file(tenant, job_id, STEP_METRICS)
    return Response(content, media_type="text/csv; charset=utf-8")


@router.post("/{job_id}/cancel")
def cancel_fine_tuning_job(
    job_id: str, services: ServicesDep, tenant: TenantDep, request: CancelFineTuningJob | None = None
) -> FineTuningJob:
    """Cancel a job: at once while it waits, at the end of the current step while it runs.

    With `keep_checkpoint` a trainer publishes the newest checkpoint as the job's adapter first.
    """
    keep = request is not None and request.keep_checkpoint
    return FineTuningJob.of(services.training.cancel(tenant, job_id, keep_checkpoint=keep))


@router.post("/{job_id}/pause")
def pause_fine_tuning_job(job_id: str, services: ServicesDep, tenant: TenantDep) -> FineTuningJob:
    """Pause a job: at once while it is queued; a running one writes a checkpoint and gives back the GPU.

    Until it has done so its status is `running` and `requested` is `pause`.
    """
    return FineTuningJob.of(services.training.pause(tenant, job_id))


@router.post("/{job_id}/resume")
def resume_fine_tuning_job(job_id: str, services: ServicesDep, tenant: TenantDep) -> FineTuningJob:
    """Queue a paused job again; it goes on after its newest checkpoint."""
    return FineTuningJob.of(services.training.resume(tenant, job_id))

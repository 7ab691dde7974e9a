"""The HTTP application."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi_offline import FastAPIOffline

from narrowcast import logs
from narrowcast.connections import connect
from narrowcast_gateway import errors
from narrowcast_gateway.adapters.routes import router as models
from narrowcast_gateway.corpora.routes import router as corpora
from narrowcast_gateway.datasets.routes import router as datasets
from narrowcast_gateway.deps import refuse_unknown_parameters
from narrowcast_gateway.estimates.routes import router as estimates
from narrowcast_gateway.evaluation.routes import router as evaluations
from narrowcast_gateway.exports.routes import router as exports
from narrowcast_gateway.files.routes import router as files
from narrowcast_gateway.generation.routes import router as generation
from narrowcast_gateway.health.routes import router as health
from narrowcast_gateway.metrics import RequestMetrics
from narrowcast_gateway.middleware import BodyLimit, RequestContext
from narrowcast_gateway.previews.routes import router as previews
from narrowcast_gateway.schemas import ErrorResponse
from narrowcast_gateway.services import create_http_client, create_services
from narrowcast_gateway.settings import GatewaySettings
from narrowcast_gateway.training.routes import router as training
from narrowcast_gateway.training.stream import EventStreams

_DESCRIPTION = """Turns a hospital's own reports into a text generator in that hospital's style.

Endpoints that OpenAI also has take and give OpenAI's shapes, so its client library works
unchanged. Every endpoint but health wants `Authorization: Bearer <key>`."""


def create_app(settings: GatewaySettings) -> FastAPI:
    """Return the application; its lifespan opens and closes what it needs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with create_http_client(settings) as http:
            connections = connect(settings)
            app.state.services = create_services(settings, connections, http)
            streams = EventStreams(settings.redis, connections.jobs, settings.http.max_event_streams)
            app.state.event_streams = streams
            async with aclosing(streams):
                yield

    # The reference page with its scripts: a hospital's network has no CDN.
    app = FastAPIOffline(
        redoc_url=None,
        title="Narrowcast",
        version="0.1.0",
        description=_DESCRIPTION,
        lifespan=lifespan,
        # A redirect names the scheme that this process sees: behind a proxy with TLS it would have the
        # caller send the same body once more, unencrypted.
        redirect_slashes=False,
        # One name per operation in generated clients: the function's.
        generate_unique_id_function=lambda route: route.name,
    )
    failed: dict[int | str, dict[str, Any]] = {
        "4XX": {"model": ErrorResponse, "description": "What was asked cannot be done; the error says why."},
        "5XX": {"model": ErrorResponse, "description": "It failed, or something is away: ask again later."},
    }
    v1 = APIRouter(prefix="/v1", responses=failed, dependencies=[Depends(refuse_unknown_parameters)])
    for router in (
        corpora,
        datasets,
        files,
        training,
        estimates,
        previews,
        models,
        generation,
        evaluations,
        exports,
    ):
        v1.include_router(router)
    app.include_router(v1)
    app.include_router(health)
    errors.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.uploads.max_body_bytes)
    app.add_middleware(RequestContext)
    app.add_middleware(RequestMetrics)
    return app


def create_configured_app() -> FastAPI:
    """Return the application with settings from the environment and logging set up (for uvicorn)."""
    settings = GatewaySettings()
    logs.configure("gateway", settings.log_level)
    return create_app(settings)

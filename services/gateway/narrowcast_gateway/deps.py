"""What endpoints ask for, as ``Annotated`` aliases."""

from typing import Annotated, cast

from fastapi import Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from narrowcast.errors import Unauthenticated
from narrowcast_gateway.services import Services
from narrowcast_gateway.training.stream import EventStreams

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer nc-…`")


def get_services(request: Request) -> Services:
    """Return what the application's lifespan opened."""
    return cast(Services, request.app.state.services)


ServicesDep = Annotated[Services, Depends(get_services)]


def get_event_streams(request: Request) -> EventStreams:
    """Return the streams of this process, which belong to HTTP and not to the worker."""
    return cast(EventStreams, request.app.state.event_streams)


EventStreamsDep = Annotated[EventStreams, Depends(get_event_streams)]


def get_tenant(
    services: ServicesDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> str:
    """Return the tenant that the request's key belongs to.

    Raises:
        Unauthenticated: no key, or not a valid one.
    """
    if credentials is None:
        raise Unauthenticated("an API key is required: Authorization: Bearer <key>", code="missing_api_key")
    return services.keys.authenticate(credentials.credentials).tenant


TenantDep = Annotated[str, Depends(get_tenant)]
LimitQuery = Annotated[int, Query(ge=1, le=100, description="How many to return at most.")]
AfterQuery = Annotated[str | None, Query(description="Return what comes after the object with this id.")]

"""What endpoints ask for, as ``Annotated`` aliases."""

import re
from typing import Annotated, Final, cast

from fastapi import Depends, Query, Request
from fastapi.dependencies.utils import get_flat_dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from narrowcast.errors import InvalidInput, Unauthenticated
from narrowcast_gateway.services import Services
from narrowcast_gateway.training.stream import EventStreams

_PARAMETER: Final = re.compile(r"^[A-Za-z0-9_\[\].-]{1,64}\Z")
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


async def refuse_unknown_parameters(request: Request, _tenant: TenantDep) -> None:
    """Check that the route knows every parameter of the query, as bodies are checked by their models.

    A filter that is silently ignored would answer with what it was to leave out.

    Raises:
        InvalidInput: ``unknown_parameter``.
    """
    route = cast(APIRoute, request.scope["route"])
    known = {field.alias for field in get_flat_dependant(route.dependant).query_params}
    for name in request.query_params:
        if name in known:
            continue
        # Whatever else was put there is not repeated.
        param = name if _PARAMETER.match(name) else None
        said = f"the query parameter {param}" if param else "a query parameter"
        raise InvalidInput(f"{said} is not known here", code="unknown_parameter", param=param)


LimitQuery = Annotated[int, Query(ge=1, le=100, description="How many to return at most.")]
AfterQuery = Annotated[str | None, Query(description="Return what comes after the object with this id.")]

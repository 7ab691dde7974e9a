"""What endpoints ask for, as ``Annotated`` aliases."""

import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, cast, get_origin

from anyio import to_thread
from fastapi import Depends, Header, Query, Request, Response
from fastapi.dependencies.utils import get_flat_dependant
from fastapi.params import Form
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from python_multipart.multipart import parse_options_header
from starlette.datastructures import ImmutableMultiDict

from narrowcast.errors import InvalidInput, Unauthenticated
from narrowcast.jobs.once import HEADER
from narrowcast_gateway.keys.service import ApiKey
from narrowcast_gateway.middleware import BODY_END
from narrowcast_gateway.services import Services
from narrowcast_gateway.training.stream import EventStreams

_PARAMETER: Final = re.compile(r"^[A-Za-z0-9_\[\].-]{1,64}\Z")
_API_KEY: Final = "narrowcast.api_key"
_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer nc-…`")


def get_services(request: Request) -> Services:
    """Return what the application's lifespan opened."""
    return cast(Services, request.app.state.services)


ServicesDep = Annotated[Services, Depends(get_services)]


def get_event_streams(request: Request) -> EventStreams:
    """Return the streams of this process, which belong to HTTP and not to the worker."""
    return cast(EventStreams, request.app.state.event_streams)


EventStreamsDep = Annotated[EventStreams, Depends(get_event_streams)]


def _owner(request: Request) -> ApiKey:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated("an API key is required: Authorization: Bearer <key>", code="missing_api_key")
    return get_services(request).keys.authenticate(key.strip())


class KeyedRoute(APIRoute):
    """A route that asks whose key a request has before it reads the request's body.

    FastAPI itself reads it first, a form onto the disk and all else into memory: anybody could fill both.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def keyed(request: Request) -> Response:
            if request.method in _WITH_BODY:
                request.scope[_API_KEY] = await to_thread.run_sync(_owner, request)
            return await answer(request)

        return keyed


def get_tenant(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    """Return the tenant that the request's key belongs to.

    Raises:
        Unauthenticated: no key, or not a valid one.
    """
    key: ApiKey | None = request.scope.get(_API_KEY)
    return (key or _owner(request)).tenant


TenantDep = Annotated[str, Depends(get_tenant)]


async def refuse_unknown_parameters(request: Request, _tenant: TenantDep) -> None:
    """Check that the route knows every parameter of the query or form, as JSON is checked by its model.

    A filter that is silently ignored would answer with what it was to leave out.

    Raises:
        InvalidInput: ``unknown_parameter``, or ``repeated_parameter``: only one of them would be heeded; or
            ``invalid_form``, it is cut off and lacks what came last.
    """
    route = cast(APIRoute, request.scope["route"])
    dependant = get_flat_dependant(route.dependant)
    query = {field.alias: field.field_info.annotation for field in dependant.query_params}
    _refuse_unknown(request.query_params, query, "query parameter")
    if route.body_field is not None and isinstance(route.body_field.field_info, Form):
        # FastAPI has parsed it by now.
        _refuse_cut_off(request)
        form = {field.alias: field.field_info.annotation for field in dependant.body_params}
        _refuse_unknown(await request.form(), form, "form field")


def _refuse_cut_off(request: Request) -> None:
    # Looked for in the last kilobyte: nobody sends an epilogue.
    _, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if boundary is not None and b"--" + boundary + b"--" not in request.scope[BODY_END]:
        raise InvalidInput("the form is cut off: its closing boundary is missing", code="invalid_form")


def _refuse_unknown(given: ImmutableMultiDict[str, Any], known: dict[str, Any], kind: str) -> None:
    for name in given:
        if name not in known:
            # Whatever else was put there is not repeated.
            param = name if _PARAMETER.match(name) else None
            said = f"the {kind} {param}" if param else f"a {kind}"
            raise InvalidInput(f"{said} is not known here", code="unknown_parameter", param=param)
        if len(given.getlist(name)) > 1 and get_origin(known[name]) is not list:
            raise InvalidInput(
                f"the {kind} {name} is given more than once", code="repeated_parameter", param=name
            )


LimitQuery = Annotated[int, Query(ge=1, le=100, description="How many to return at most.")]
AfterQuery = Annotated[str | None, Query(description="Return what comes after the object with this id.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias=HEADER,
        min_length=1,
        max_length=255,
        description="Any text that no other request of the last 24 hours had, as a UUID. The same request"
        " with the same key returns what the first has made: when its answer was lost, send it again.",
    ),
]

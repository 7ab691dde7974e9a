"""From domain errors to HTTP: OpenAI's error object with a code and the offending parameter."""

import re
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any, Final

import redis
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from minio.error import MinioException
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from narrowcast import errors, logs
from narrowcast.adapters import unservable, why_unservable
from narrowcast.artifacts import CorruptArtifact

_log = logs.get(__name__)


class CallerLeft(errors.NarrowcastError):
    """The connection was closed before there was an answer; nobody reads this, but the log has its status."""

    code = "caller_left"


_STATUS: dict[type[errors.NarrowcastError], int] = {
    errors.Unauthenticated: 401,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.InvalidInput: 400,
    errors.Unavailable: 503,
    CallerLeft: 499,  # nginx's: in the log and the metrics alone
    CorruptArtifact: 500,
}
_BAD_REQUEST, _NOT_FOUND = 400, 404
_FIRST_SERVER_ERROR = 500
_RETRY_AFTER_S = {"gpu_busy_training": 30, "too_many_streams": 10}
"""By code. A training takes longer; OpenAI's clients heed no more than 60."""
_FORMS: Final = {"multipart/form-data", "application/x-www-form-urlencoded"}
_AS_A_FILE: Final = "with a file name (curl: -F name=@path, with the @)"
_LARGE_TEXT: Final = f" A file is sent as one, {_AS_A_FILE}."
_NAME: Final = re.compile(r"^[A-Za-z0-9_.-]{1,64}\Z")
_HTTP_CODES: Final = {404: "not_found", 405: "method_not_allowed", 416: "range_not_satisfiable"}


def status_of(error: errors.NarrowcastError) -> int:
    """Return the HTTP status of a domain error; the nearest base class decides."""
    for cls in type(error).__mro__:
        if cls in _STATUS:
            return _STATUS[cls]
    return 500


def error_body(status: int, message: str, code: str, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error object."""
    if status == 401:
        kind = "authentication_error"
    elif status < _FIRST_SERVER_ERROR:
        kind = "invalid_request_error"
    else:
        kind = "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def domain_body(error: errors.NarrowcastError) -> dict[str, Any]:
    """Return OpenAI's error object of a domain error."""
    return error_body(status_of(error), _message(error), error.code, error.param)


def _message(error: errors.NarrowcastError) -> str:
    # The store's own names the object by its key, which is nothing that a caller has asked for.
    gone = "what was asked for is not in the object store, or not any more"
    return gone if _is_the_stores(error) else error.message


def _is_the_stores(error: errors.NarrowcastError) -> bool:
    return isinstance(error, errors.NotFound) and isinstance(error.__cause__, MinioException)


def _answer(
    status: int,
    message: str,
    code: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    headers = dict(headers or {})
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if code in _RETRY_AFTER_S:
        headers["Retry-After"] = str(_RETRY_AFTER_S[code])
    return JSONResponse(error_body(status, message, code, param), status, headers)


async def _domain_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.NarrowcastError)  # noqa: S101
    status = status_of(error)
    if status >= _FIRST_SERVER_ERROR:
        _log.error("request_failed", status=status, exc_info=error)
    elif _is_the_stores(error):
        _log.warning("object_missing", exc_info=error)
    return _answer(status, _message(error), error.code, error.param)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    # The first problem, by its place and kind. Pydantic's own text is safe, its ``input`` is not:
    # it quotes the request.
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _invalid_json(request)
    if wanted := _content_type_wanted(request, error.body):
        return _answer(400, f"send Content-Type: {wanted}", "wrong_content_type")
    places = list(_places(first, error.body))
    # A key that is no field of ours may be any text, of any length.
    named = list(takewhile(_NAME.match, places))
    param = ".".join(named)
    where = param or "body"
    if len(named) < len(places):
        where += ": an unknown field"
    message = first["msg"].removeprefix("Value error, ")
    if message.startswith("Expected UploadFile"):
        message = f"must be sent as a file, {_AS_A_FILE}"
    if reason := _why_unservable(first):
        return await _domain_error(request, unservable(param, reason))
    return _answer(400, f"{where}: {message}", "invalid_parameter", param or None)


def _why_unservable(problem: dict[str, Any]) -> str | None:
    """Return why no adapter would be served that had an unknown hyper-parameter, if it is such a one."""
    *within, name = problem["loc"]
    if problem["type"] != "extra_forbidden" or "hyperparameters" not in within:
        return None
    return why_unservable(name, problem["input"])


def _content_type_wanted(request: Request, body: Any) -> str | None:
    """Return the type that the request should have said it has; None if it says so."""
    if isinstance(body, bytes):
        return "application/json"  # FastAPI reads as JSON only what is said to be some
    said = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    empty = not said and request.headers.get("content-length", "0") == "0"  # lacks a field, no more
    if isinstance(body, FormData) and said not in _FORMS and not empty:
        return "multipart/form-data"
    return None


def _invalid_json(request: Request, why: str = "is not valid JSON") -> JSONResponse:
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        why = "is compressed: send it as it is, without Content-Encoding"
    return _answer(400, f"the request body {why}", "invalid_json")


def _unreadable_body(request: Request, error: HTTPException) -> JSONResponse:
    match error.__cause__:
        case UnicodeDecodeError():
            return _invalid_json(request, "is not UTF-8 text")
        case RecursionError():
            return _invalid_json(request, "is not valid JSON: it is nested too deeply")
        case ValueError():
            return _invalid_json(request)  # a number of thousands of digits
        case None:  # Starlette's, of a form
            hint = _LARGE_TEXT if error.detail.startswith("Part exceeded") else ""
            return _answer(400, f"the form cannot be read: {error.detail}{hint}", "invalid_form")
    return _answer(400, "the request body cannot be read", "invalid_body")


def _places(problem: dict[str, Any], body: Any) -> Iterator[str]:
    """Yield the keys that lead to the problem, as the request has them.

    Of a union pydantic adds which member it tried, as ``str`` or ``literal['all-linear']``.
    """
    where, *keys = problem["loc"]
    if where != "body" or not isinstance(body, dict | list):
        yield from map(str, keys)  # a header, a query, a path or a form: no unions
        return
    for key in keys:
        within = body if isinstance(body, dict) else range(len(body)) if isinstance(body, list) else ()
        if key in within:
            body = body[key]
            yield str(key)
    if problem["type"] == "missing":
        yield from map(str, keys[-1:])


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    if isinstance(error.__cause__, errors.NarrowcastError):
        # FastAPI calls whatever went wrong while it read a body an error of parsing.
        return await _domain_error(request, error.__cause__)
    if error.status_code == _BAD_REQUEST:
        return _unreadable_body(request, error)
    message = str(error.detail)
    if error.status_code == _NOT_FOUND and request.url.path.endswith("/") and request.url.path != "/":
        message = "no such path: try it without the slash at its end"
    code = _HTTP_CODES.get(error.status_code, "http_error")
    return _answer(error.status_code, message, code, headers=error.headers)


async def _redis_error(_request: Request, error: Exception) -> JSONResponse:
    _log.error("redis_unavailable", exc_info=error)
    away = isinstance(error, redis.ConnectionError | redis.TimeoutError)
    message = "does not answer" if away else "refuses; its memory or disk may be full"
    return _answer(503, f"the job store {message}", "job_store_unavailable")


def unexpected() -> JSONResponse:
    """Return the answer to a request in which something went wrong that nobody foresaw."""
    return _answer(500, "an internal error; the log has the details under this request id", "internal_error")


def install(app: FastAPI) -> None:
    """Register the handlers. What nobody foresaw is left to the middleware, which knows the request's id."""
    app.add_exception_handler(errors.NarrowcastError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(redis.RedisError, _redis_error)

"""From domain errors to HTTP: OpenAI's error object with a code and the offending parameter."""

from typing import Any

import redis
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from narrowcast import errors, logs
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
_FIRST_SERVER_ERROR = 500
_RETRY_AFTER_S = {"gpu_busy_training": 30, "too_many_streams": 10}
"""By code. A training takes longer; OpenAI's clients heed no more than 60."""


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


def _answer(status: int, message: str, code: str, param: str | None = None) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if code in _RETRY_AFTER_S:
        headers["Retry-After"] = str(_RETRY_AFTER_S[code])
    return JSONResponse(error_body(status, message, code, param), status, headers)


async def _domain_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.NarrowcastError)  # noqa: S101
    status = status_of(error)
    if status >= _FIRST_SERVER_ERROR:
        _log.error("request_failed", status=status, exc_info=error)
    return _answer(status, error.message, error.code, error.param)


async def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    # The first problem, by its place and kind. Pydantic's own text is safe, its ``input`` is not:
    # it quotes the request.
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    # Of a union pydantic adds which member it tried, as in ``literal['all-linear']``.
    places = [str(part) for part in first["loc"] if part not in {"body", "query", "path"}]
    param = ".".join(part for part in places if "[" not in part)
    if first["type"] == "json_invalid":
        return _answer(400, "the request body is not valid JSON", "invalid_json")
    message = first["msg"].removeprefix("Value error, ")
    return _answer(400, f"{param or 'body'}: {message}", "invalid_parameter", param or None)


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    codes = {404: "not_found", 405: "method_not_allowed"}
    return _answer(error.status_code, str(error.detail), codes.get(error.status_code, "http_error"))


async def _redis_error(_request: Request, error: Exception) -> JSONResponse:
    _log.error("redis_unavailable", exc_info=error)
    away = isinstance(error, redis.ConnectionError | redis.TimeoutError)
    message = "does not answer" if away else "refuses; its memory or disk may be full"
    return _answer(503, f"the job store {message}", "job_store_unavailable")


async def _unexpected(_request: Request, error: Exception) -> JSONResponse:
    _log.error("unexpected_error", exc_info=error)
    return _answer(500, "an internal error; the log has the details under this request id", "internal_error")


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(errors.NarrowcastError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(redis.RedisError, _redis_error)
    app.add_exception_handler(Exception, _unexpected)

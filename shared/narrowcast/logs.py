"""JSON logs on stderr, one object a line, with whatever ids are bound to the context.

Text about patients must not reach a log. Exception messages are the usual leak (a parser
quotes what it could not parse), so tracebacks are rendered as type and places only; the
message is kept for :class:`~narrowcast.errors.NarrowcastError` alone, whose messages are
written to be shown.
"""

import logging
import resource
import sys
import traceback
from typing import Any

import structlog
from structlog.types import EventDict, ExcInfo, WrappedLogger

from narrowcast.errors import NarrowcastError

bound = structlog.contextvars.bound_contextvars


def describe(error: BaseException) -> dict[str, Any]:
    """Return an exception as a loggable dict: type, places, and a message only if it is ours."""
    frames = traceback.extract_tb(error.__traceback__)
    described: dict[str, Any] = {
        "type": type(error).__qualname__,
        "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]],
    }
    if isinstance(error, NarrowcastError):
        described |= {"code": error.code, "message": error.message}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        described["cause"] = describe(cause)
    return described


def _describe_exc_info(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    exc_info: ExcInfo | BaseException | bool | None = event.pop("exc_info", None)
    if exc_info is True:
        error = sys.exc_info()[1]
    elif isinstance(exc_info, tuple):
        error = exc_info[1]
    else:
        error = exc_info if isinstance(exc_info, BaseException) else None
    if error is not None:
        event["exception"] = describe(error)
    return event


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure(service: str, level: str = "INFO") -> None:
    """Send structlog's and the standard library's records to stderr as JSON.

    Also, a process that crashes leaves no picture of its memory, where reports are: what each service's
    processes do first, they and their children inherit.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def add_service(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_service,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _describe_exc_info,
    ]
    structlog.configure(
        processors=[
            *shared[:1],
            structlog.stdlib.filter_by_level,
            *shared[1:],
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # httpx logs every request URL at INFO: noise, and one more place where text could leak.
    for noisy in ("httpx", "httpcore", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


# A process or test that logs before configure() must not fall back to structlog's default,
# which prints tracebacks with the values of local variables.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _describe_exc_info,
        structlog.processors.JSONRenderer(ensure_ascii=False),
    ],
    logger_factory=structlog.PrintLoggerFactory(sys.stderr),
)

"""Makes vLLM, and the web server in it, log as our services do."""

import json
import logging
from pathlib import Path
from typing import Any

from narrowcast import logs

SERVICE = "inference"


def formatter(level: str) -> logging.Formatter:
    """Return our JSON formatter; named in the file below, so it runs in each vLLM process."""
    logs.configure(SERVICE, level)
    configured = logging.getLogger().handlers[0].formatter
    if configured is None:
        raise RuntimeError("logs.configure sets a formatter")
    return configured


def write_config(path: Path, level: str) -> None:
    """Write a ``logging.config`` file for ``VLLM_LOGGING_CONFIG_PATH``."""
    propagating = {"level": level, "handlers": [], "propagate": True}
    config: dict[str, Any] = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": f"{__name__}.{formatter.__name__}", "level": level}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}
        },
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": dict.fromkeys(("vllm", "uvicorn", "uvicorn.error", "uvicorn.access"), propagating),
    }
    path.write_text(json.dumps(config, indent=1))

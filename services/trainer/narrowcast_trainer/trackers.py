"""Trackers of experiments that the site may have: MLflow, Weights & Biases, trackio.

Off unless the site names one: what a training measures goes to a server then. Each library finds its
server by its own environment variables. Nothing here imports one; see :mod:`.engines.tracking`.
"""

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

from narrowcast.errors import InvalidInput

TrackerName = Literal["mlflow", "wandb", "trackio"]

_SECRETS: Final = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "WANDB_API_KEY",
    "TRACKIO_SERVER_URL",  # a self-hosted server's holds its write token
)
_DEFAULTS: Final = {
    # A training waits for no server: MLflow's own are seven attempts of two minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",
}


def check_installed(names: Iterable[TrackerName]) -> None:
    """Check that this node has the libraries of the trackers that it is to report to.

    Raises:
        InvalidInput: ``tracker_not_installed``.
    """
    for name in names:
        if find_spec(name) is None:
            raise InvalidInput(
                f"NARROWCAST_TRAINER__REPORT_TO names {name}, which is not installed:"
                f" pip install narrowcast-trainer[{name}]",
                code="tracker_not_installed",
                param="report_to",
            )


def tracker_environment(names: Iterable[TrackerName]) -> dict[str, str]:
    """Return variables for the training process: the trackers' secrets that lie in files, and time limits.

    A secret's file has its variable's name, beside our own (``NARROWCAST_SECRETS_DIR``); a variable
    that is set goes before it.
    """
    if not tuple(names):
        return {}
    folder = Path(os.environ.get("NARROWCAST_SECRETS_DIR", "/run/secrets"))
    files = {name: folder / name for name in _SECRETS}
    found = {name: path.read_text().strip() for name, path in files.items() if path.is_file()}
    return {name: value for name, value in (_DEFAULTS | found).items() if name not in os.environ}

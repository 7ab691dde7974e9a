"""Shows a process's metrics to Prometheus, and keeps foreign text out of their labels.

Names begin with ``narrowcast_`` and carry base units. A label's values are few and ours: never
an id, a tenant, a model's name or anything that somebody typed.
"""

import os
import re
from typing import Final

from prometheus_client import REGISTRY, disable_created_metrics, start_http_server
from prometheus_client.registry import Collector

from narrowcast.settings import MetricsSettings

OTHER: Final = "other"
"""The label's value where the true one is not one of ours."""
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")


def serve(settings: MetricsSettings, *collectors: Collector) -> None:
    """Answer scrapes from threads of this process, until it ends; port 0 does nothing.

    Args:
        settings: where to listen.
        collectors: registered besides what the imported modules define.

    Raises:
        OSError: the address cannot be taken.
    """
    if settings.port == 0:
        return
    # A second series for each counter and histogram, which nobody asks for.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    for collector in collectors:
        REGISTRY.register(collector)
    server, _ = start_http_server(settings.port, settings.host)
    # A pool process that outlives this one for a moment must not keep the port from its successor.
    os.register_at_fork(after_in_child=server.socket.close)


def code_label(code: str) -> str:
    """Return an error's code as a label's value; what does not look like one becomes ``other``."""
    return code if _CODE.fullmatch(code) else OTHER

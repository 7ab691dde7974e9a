"""Readiness for supervisors: ``python -m narrowcast_inference.health`` exits 0 or 1."""

import http.client
import sys

from narrowcast_inference.settings import InferenceSettings

_TIMEOUT_S = 5.0
_EVERYWHERE = {"0.0.0.0", "::", ""}  # noqa: S104 - compared with, not bound to


def is_ready(host: str, port: int) -> bool:
    """Whether the engine lives and our resolver is registered in the process that serves."""
    address = "127.0.0.1" if host in _EVERYWHERE else host
    return all(_ok(address, port, path) for path in ("/health", "/narrowcast/health"))


def _ok(host: str, port: int, path: str) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    section = InferenceSettings().inference
    sys.exit(0 if is_ready(section.host, section.port) else 1)

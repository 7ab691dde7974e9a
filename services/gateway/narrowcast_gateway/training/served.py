"""What an inference server holds: an adapter for another base, or for longer texts, would never be served."""

from dataclasses import dataclass
from typing import Final

import httpx

from narrowcast import logs

_TIMEOUT_S = 2.0
_log = logs.get(__name__)


@dataclass(frozen=True)
class Served:
    """One server, as far as it says."""

    fingerprints: tuple[str, ...] = ()
    """Of the bases whose adapters it takes; none if it does not answer."""
    max_model_len: int | None = None
    """Tokens of prompt and answer together that it takes; None if it does not answer."""


UNKNOWN: Final = Served()


def ask_served(url: str) -> Served:
    """Return what a server serves.

    A server that is down, or still loads its model, must not keep jobs from being submitted: the
    trainer then trains unchecked, as the server itself checks every adapter before it serves it.
    """
    try:
        answer = httpx.get(f"{url.rstrip('/')}/narrowcast/health", timeout=_TIMEOUT_S, trust_env=False)
        health = answer.raise_for_status().json()
        fingerprints = tuple(str(one) for one in health["accepted_fingerprints"])
        length = health.get("max_model_len")
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("served_base_unknown", exception=type(error).__name__)
        return UNKNOWN
    return Served(fingerprints, length if isinstance(length, int) else None)

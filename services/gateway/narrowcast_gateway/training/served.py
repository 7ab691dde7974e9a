"""Which base an inference server holds: an adapter trained on another one would never be served."""

import httpx

from narrowcast import logs

_TIMEOUT_S = 2.0
_log = logs.get(__name__)


def served_fingerprints(url: str) -> tuple[str, ...]:
    """Return the fingerprints of the bases whose adapters the server takes; none if it does not answer.

    A server that is down, or still loads its model, must not keep jobs from being submitted: the
    trainer then trains unchecked, as the server itself checks every adapter before it serves it.
    """
    try:
        answer = httpx.get(f"{url.rstrip('/')}/narrowcast/health", timeout=_TIMEOUT_S)
        accepted = answer.raise_for_status().json()["accepted_fingerprints"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        _log.warning("served_base_unknown", exception=type(error).__name__)
        return ()
    return tuple(str(one) for one in accepted)

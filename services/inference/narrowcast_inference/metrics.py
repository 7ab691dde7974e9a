"""Our part of vLLM's ``/metrics``: how adapters come from the object store.

vLLM shows the default registry of the process that answers HTTP, which is also the one in which
its resolver runs; metrics defined here need nothing else to be seen.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from narrowcast.errors import NarrowcastError
from narrowcast.metrics import code_label

LOADED: Final = "loaded"

LOADS: Final = Counter(
    "narrowcast_adapter_loads",
    "Adapters looked for, in the cache and then in the object store: loaded, or the code of the error.",
    ["outcome"],
)
LOAD_TIME: Final = Histogram(
    "narrowcast_adapter_load_duration_seconds",
    "Time to find, fetch and check an adapter that was loaded; vLLM's own loading comes after it.",
    # From a cached copy whose sizes are compared, to some GB over a slow network.
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)
FETCHED: Final = Counter(
    "narrowcast_adapter_fetched_bytes", "Bytes of adapters fetched from the object store."
)
CACHED: Final = Gauge("narrowcast_adapters_cached", "Whole adapters in the cache on the disk.")


def count_load(error: BaseException | None, seconds: float) -> None:
    """Count one look-up, which ended after ``seconds`` with ``error`` or without."""
    if error is None:
        LOADS.labels(LOADED).inc()
        LOAD_TIME.observe(seconds)
    else:
        code = error.code if isinstance(error, NarrowcastError) else "internal_error"
        LOADS.labels(code_label(code)).inc()

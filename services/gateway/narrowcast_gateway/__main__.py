"""Serves the API: ``python -m narrowcast_gateway``."""

import uvicorn

from narrowcast import metrics
from narrowcast.jobs.metrics import JobMetrics
from narrowcast.settings import settings_or_exit
from narrowcast_gateway.settings import GatewaySettings


def main() -> None:
    """Run until SIGTERM; requests in flight are finished first."""
    settings = settings_or_exit(GatewaySettings, "gateway")
    metrics.serve(settings.metrics, JobMetrics(settings.redis))
    uvicorn.run(
        "narrowcast_gateway.app:create_configured_app",
        factory=True,
        host=settings.http.host,
        port=settings.http.port,
        log_config=None,  # ours; uvicorn's access log would repeat our request line
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=30,
    )


if __name__ == "__main__":
    main()

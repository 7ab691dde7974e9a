"""The gateway's services, wired in one place for the API process and the CPU worker."""

from dataclasses import dataclass

import httpx
import redis
from anyio import to_thread

from narrowcast.connections import Connections
from narrowcast.errors import Unavailable
from narrowcast.estimates.history import EstimateFacts
from narrowcast_gateway.adapters.service import Adapters
from narrowcast_gateway.corpora.service import Corpora
from narrowcast_gateway.datasets.service import Datasets
from narrowcast_gateway.estimates.service import Estimates
from narrowcast_gateway.evaluation.service import Evaluations
from narrowcast_gateway.exports.service import Exports
from narrowcast_gateway.files.service import Files
from narrowcast_gateway.generation.service import Generation
from narrowcast_gateway.keys.service import ApiKeys
from narrowcast_gateway.previews.service import Previews
from narrowcast_gateway.settings import GatewaySettings
from narrowcast_gateway.training.cards import JobCards
from narrowcast_gateway.training.results import ResultFiles
from narrowcast_gateway.training.service import Training

_CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Services:
    """One of each; they share connections and hold no state of their own."""

    connections: Connections
    keys: ApiKeys
    adapters: Adapters
    corpora: Corpora
    datasets: Datasets
    files: Files
    result_files: ResultFiles
    job_cards: JobCards
    training: Training
    estimates: Estimates
    previews: Previews
    generation: Generation
    evaluations: Evaluations
    exports: Exports

    async def check_stores(self) -> dict[str, bool]:
        """Ask Redis and the object store whether they answer."""

        def redis_answers() -> bool:
            try:
                return bool(self.connections.redis.ping())
            except redis.RedisError:
                return False

        def storage_answers() -> bool:
            try:
                self.connections.storage.check()
            except Unavailable:
                return False
            return True

        return {
            "redis": await to_thread.run_sync(redis_answers),
            "storage": await to_thread.run_sync(storage_answers),
        }


def create_http_client(settings: GatewaySettings) -> httpx.AsyncClient:
    """Return the client for the inference servers; it belongs to the event loop that uses it."""
    timeout = httpx.Timeout(settings.servers.timeout_s, connect=_CONNECT_TIMEOUT_S)
    # Never through a proxy that the environment names: requests hold impressions, and stay in the house.
    return httpx.AsyncClient(timeout=timeout, limits=httpx.Limits(max_connections=None), trust_env=False)


def create_services(settings: GatewaySettings, connections: Connections, http: httpx.AsyncClient) -> Services:
    """Wire everything; nothing is sent yet."""
    adapters = Adapters(connections, settings.servers)
    datasets = Datasets(connections.storage.data, connections.jobs)
    training = Training(connections.jobs, datasets, connections.storage.models, settings.servers)
    return Services(
        connections=connections,
        keys=ApiKeys(connections.redis),
        adapters=adapters,
        corpora=Corpora(connections, settings.uploads),
        datasets=datasets,
        files=Files(datasets, settings.uploads.max_training_file_bytes),
        result_files=ResultFiles(connections.jobs, adapters),
        job_cards=JobCards(connections.jobs, adapters, connections.storage.data),
        training=training,
        estimates=Estimates(EstimateFacts(connections.redis), training, datasets, settings.servers, http),
        previews=Previews(training, datasets, settings.servers, http),
        generation=Generation(adapters, settings.servers, http),
        evaluations=Evaluations(connections, adapters, datasets),
        exports=Exports(connections.jobs, connections.storage.models, adapters),
    )

"""Settings of the gateway's two processes."""

import tempfile
from pathlib import Path

from pydantic import BaseModel, Field, HttpUrl

from narrowcast.settings import Settings

_MIB = 1024 * 1024


class HttpSettings(BaseModel):
    """Where the API listens."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    max_event_streams: int = Field(50, ge=1)
    """Open at once for one tenant in one process; each holds a connection to Redis."""


class ServersSettings(BaseModel):
    """The vLLM servers behind the gateway, reachable by it alone."""

    bases: dict[str, HttpUrl] = Field(default_factory=dict)
    """URL of the server by the name of the base model that it serves."""
    timeout_s: float = Field(300.0, gt=0)
    """Longest silence from a server in the middle of an answer."""
    max_lora_rank: int = Field(64, ge=1)
    """The servers' ``--max-lora-rank``: a job above it is refused, since nothing could serve its adapter."""


class UploadSettings(BaseModel):
    """What may be uploaded."""

    max_body_bytes: int = Field(1024 * _MIB, gt=0)
    max_training_file_bytes: int = Field(256 * _MIB, gt=0)
    """Some 60,000 rows; it is read as a whole, and takes up to seven times as much memory."""
    max_documents: int = Field(200_000, gt=0)
    retention_h: float = Field(0.0, ge=0)
    """Hours that originals are kept after preprocessing has ended; 0 deletes them at once."""


class EvaluationSettings(BaseModel):
    """How evaluations use the inference servers."""

    concurrency: int = Field(8, ge=1)
    """Requests in flight; vLLM batches them."""


class WorkerSettings(BaseModel):
    """The CPU worker."""

    concurrency: int = Field(1, ge=1)
    """Jobs at a time; each holds about 300 MB of language models."""
    heartbeat_file: Path = Path(tempfile.gettempdir()) / "narrowcast-worker.heartbeat"
    """Touched by the worker's main loop; a liveness probe reads its age."""


class GatewaySettings(Settings):
    """Everything the API process and the CPU worker need."""

    http: HttpSettings = HttpSettings()
    servers: ServersSettings = ServersSettings()
    uploads: UploadSettings = UploadSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    worker: WorkerSettings = WorkerSettings()

"""Settings every service shares: nested models under the prefix ``NARROWCAST_``.

``NARROWCAST_REDIS__URL=redis://…`` sets ``settings.redis.url``. A service adds its own
section by subclassing :class:`Settings`, or :class:`CommonSettings` if it knows of no jobs.
Everything is validated when the process starts; in production a default secret stops it there.
"""

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

DEVELOPMENT_SECRET = "narrowcast-development-only"  # noqa: S105 - refused in production
_MINIO_DEFAULT_SECRET = "minioadmin"  # noqa: S105 - refused in production


class RedisSettings(BaseModel):
    """Broker, job records, leases, API keys."""

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """May hold the password, hence a secret."""

    @property
    def has_password(self) -> bool:
        """Whether the URL names a password."""
        return bool(urlsplit(self.url.get_secret_value()).password)


class StorageSettings(BaseModel):
    """Any S3 server. Three buckets, because three circles of services may read them."""

    endpoint: str = "127.0.0.1:9000"
    """``host:port``, no scheme."""
    secure: bool = False
    region: str = "us-east-1"
    access_key: str = "narrowcast"
    secret_key: SecretStr = SecretStr(DEVELOPMENT_SECRET)
    documents_bucket: str = "narrowcast-documents"
    """Uploaded originals with patients' names in them; emptied when preprocessing ends."""
    data_bucket: str = "narrowcast-data"
    """De-identified datasets, evaluations, finished job records."""
    models_bucket: str = "narrowcast-models"
    """Adapters and checkpoints: the trainer writes, inference reads."""


class JobSettings(BaseModel):
    """How the life of a job is watched."""

    lease_s: float = Field(30.0, gt=0)
    """A worker that has not renewed its lease for this long has lost the job."""
    reap_every_s: float = Field(5.0, gt=0)
    max_attempts: int = Field(3, ge=1)
    """Times a job is started before it fails with ``worker_lost``."""
    record_ttl_s: int = Field(7 * 24 * 3600, gt=0)
    """A finished record stays in Redis this long after its copy in S3 was written."""


class CommonSettings(BaseSettings):
    """What every service needs; all that inference needs of ours."""

    model_config = SettingsConfigDict(
        env_prefix="NARROWCAST_", env_nested_delimiter="__", nested_model_default_partial_update=True
    )

    environment: Literal["development", "production"] = "development"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    storage: StorageSettings = StorageSettings()

    def default_secrets(self) -> list[str]:
        """Return what is wrong with the secrets, for production."""
        if self.storage.secret_key.get_secret_value() in {"", DEVELOPMENT_SECRET, _MINIO_DEFAULT_SECRET}:
            return ["NARROWCAST_STORAGE__SECRET_KEY is a default secret"]
        return []

    @model_validator(mode="after")
    def _refuse_default_secrets(self) -> Self:
        if self.environment == "production" and (problems := self.default_secrets()):
            raise ValueError("refusing to start in production: " + "; ".join(problems))
        return self


class Settings(CommonSettings):
    """What every service that knows of jobs needs."""

    redis: RedisSettings = RedisSettings()
    jobs: JobSettings = JobSettings()

    def default_secrets(self) -> list[str]:
        """Return what is wrong with the secrets, for production."""
        problems = super().default_secrets()
        if not self.redis.has_password:
            problems.append("NARROWCAST_REDIS__URL has no password")
        return problems

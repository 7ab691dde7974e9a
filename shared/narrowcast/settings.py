"""Settings every service shares: nested models under the prefix ``NARROWCAST_``.

``NARROWCAST_REDIS__URL=redis://…`` sets ``settings.redis.url``, as does a file of that name
under ``/run/secrets``, where Docker and Kubernetes put secrets (``NARROWCAST_SECRETS_DIR`` names
another folder); the environment wins. A service adds its own section by subclassing
:class:`Settings`, or :class:`CommonSettings` if it knows of no jobs. Everything is validated
when the process starts; in production a default secret stops it there.
"""

import os
import sys
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from narrowcast import logs

WRONG_SETTINGS: Final = 2
"""Exit status of a process that cannot start with its settings."""
DEVELOPMENT_SECRET = "narrowcast-development-only"  # noqa: S105 - refused in production
_MINIO_DEFAULT_SECRET = "minioadmin"  # noqa: S105 - refused in production

log = logs.get(__name__)


class RedisSettings(BaseModel):
    """Broker, job records, leases, API keys."""

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """May hold the password, hence a secret."""
    password: SecretStr | None = None
    """Of the URL's user, if the URL has none: a secret file then holds it alone."""

    @property
    def dsn(self) -> str:
        """The URL with the password in it. Not for logs."""
        url = urlsplit(self.url.get_secret_value())
        if url.password or self.password is None:
            return url.geturl()
        user = f"{url.username or ''}:{quote(self.password.get_secret_value(), safe='')}"
        return url._replace(netloc=f"{user}@{url.netloc.rpartition('@')[2]}").geturl()

    @property
    def has_password(self) -> bool:
        """Whether there is a password, in the URL or beside it."""
        return bool(urlsplit(self.dsn).password)


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
    outage_patience_s: float = Field(3600.0, ge=0)
    """How long an attempt bears that the object store, an inference server or Redis does not answer,
    before it is used up. 0: not at all."""
    record_ttl_s: int = Field(24 * 3600, gt=0)
    """A finished record, with up to 8 MB of events, stays in Redis this long after it was copied to S3."""


class MetricsSettings(BaseModel):
    """Where a process shows its metrics to Prometheus: a port of its own, never the public one."""

    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535)
    """0 shows none."""


class CommonSettings(BaseSettings):
    """What every service needs; all that inference needs of ours."""

    model_config = SettingsConfigDict(
        env_prefix="NARROWCAST_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        hide_input_in_errors=True,  # one of the values may be a secret
    )

    environment: Literal["development", "production"] = "development"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    storage: StorageSettings = StorageSettings()
    metrics: MetricsSettings = MetricsSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read secrets from files as well."""
        secrets = NestedSecretsSettingsSource(
            file_secret_settings,
            secrets_dir=os.environ.get("NARROWCAST_SECRETS_DIR", "/run/secrets"),
            secrets_dir_missing="ok",
        )
        return init_settings, env_settings, secrets

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
            problems.append("NARROWCAST_REDIS__PASSWORD is not set")
        return problems


S = TypeVar("S", bound=CommonSettings)


def settings_or_exit(kind: type[S], service: str, **overrides: Any) -> S:
    """Return the settings of this process, or end it with status 2 and say which are wrong.

    Args:
        kind: the service's settings.
        service: its name in the log.
        overrides: settings for which it does not matter what the environment says.
    """
    try:
        return kind(**overrides)
    except ValidationError as error:
        logs.configure(service)
        # Without the values: one of them may be a secret.
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        log.critical("invalid settings", problems=problems)
        sys.exit(WRONG_SETTINGS)

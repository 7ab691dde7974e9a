"""Real servers for tests: Valkey and an S3 server, started once a session, on free ports."""

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis

from narrowcast.connections import Connections, connect
from narrowcast.settings import JobSettings, RedisSettings, Settings, StorageSettings

REPOSITORY = Path(__file__).parent.parent
_PASSWORD = "test-password"
_SECRET = "test-secret-key"
_READY_S = 60


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Real data that is not part of the repository; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("NARROWCAST_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set NARROWCAST_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def base_model() -> Path:
    """The small real base model's folder."""
    default = REPOSITORY / ".local" / "models" / "smollm2-135m-instruct"
    folder = Path(os.environ.get("NARROWCAST_TEST_MODEL", default)).resolve()
    if not (folder / "config.json").exists():
        pytest.skip(f"no base model at {folder}; `make model` gets it")
    return folder


@pytest.fixture
def llama_8b() -> dict[str, Any]:
    """The shape of the paper's base, as its ``config.json`` has it."""
    return {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    }


@pytest.fixture(scope="session")
def llama_cpp() -> Path:
    """The folder of llama.cpp's programs and converters."""
    default = REPOSITORY / ".local" / "llama.cpp"
    folder = Path(os.environ.get("NARROWCAST_TEST_LLAMA_CPP", default))
    if not (folder / "bin" / "llama-completion").exists():
        pytest.skip(f"no llama.cpp at {folder}; `make llama.cpp` gets it")
    return folder.resolve()


@pytest.fixture(scope="session")
def servers() -> ModuleType:
    """How to start them; an environment that only trains (`make test-gpu`) is without."""
    from narrowcast_local.stack import servers

    return servers


@pytest.fixture(scope="session")
def redis_settings(servers: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSettings]:
    """A running Valkey."""
    server = servers.valkey(tmp_path_factory.mktemp("valkey"), servers.free_port(), _PASSWORD)
    settings = RedisSettings.model_validate({"url": f"redis://:{_PASSWORD}@127.0.0.1:{server.port}/0"})

    def ready() -> bool:
        try:
            return bool(redis.Redis.from_url(settings.url.get_secret_value()).ping())
        except redis.RedisError:
            return False

    with _running(server.command, ready):
        yield settings


@pytest.fixture(scope="session")
def storage_settings(
    servers: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StorageSettings]:
    """A running S3 server with our three buckets."""
    port = servers.free_port()
    settings = StorageSettings.model_validate({"endpoint": f"127.0.0.1:{port}", "secret_key": _SECRET})
    folder = tmp_path_factory.mktemp("s3")
    server = servers.seaweedfs(folder, port, settings.access_key, _SECRET)

    ready = partial(servers.buckets_ready, settings)

    with _running(server.command, ready):
        yield settings


@pytest.fixture(scope="session")
def rclone_settings(
    servers: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StorageSettings]:
    """Another make of S3 server with our three buckets."""
    port = servers.free_port()
    settings = StorageSettings.model_validate({"endpoint": f"127.0.0.1:{port}", "secret_key": _SECRET})
    server = servers.rclone(tmp_path_factory.mktemp("rclone"), port, settings.access_key, _SECRET)

    ready = partial(servers.buckets_ready, settings)

    with _running(server.command, ready, server.environment):
        yield settings


@pytest.fixture(scope="session")
def running() -> "type[_running]":
    """Runs a server of a test's own: ``with running(command, ready):``."""
    return _running


@pytest.fixture(scope="session")
def settings(redis_settings: RedisSettings, storage_settings: StorageSettings) -> Settings:
    """Settings for the running servers, with short leases."""
    return Settings(
        redis=redis_settings,
        storage=storage_settings,
        jobs=JobSettings(lease_s=2, reap_every_s=0.2, max_attempts=3),
    )


@pytest.fixture
def connections(settings: Settings) -> Iterator[Connections]:
    """Connections to the servers; Redis is emptied first."""
    opened = connect(settings)
    opened.redis.flushdb()
    yield opened
    opened.redis.close()


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test uses."""
    return f"t-{uuid.uuid4().hex[:12]}"


class _running:  # noqa: N801 - reads as a statement
    """Runs a server process while the context is open."""

    def __init__(
        self, command: list[str], ready: Callable[[], bool], environment: dict[str, str] | None = None
    ) -> None:
        self._command = command
        self._ready = ready
        self._environment = os.environ | (environment or {})

    def __enter__(self) -> None:
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _READY_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError(f"{self._command[0]} did not come up")
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        # What they hold is in a temporary folder: no need for the 18 seconds of a polite S3 server.
        self._process.kill()
        self._process.wait()

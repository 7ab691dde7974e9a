"""Starts, watches and stops the processes, with supervisord doing the supervising."""

import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TextIO
from xmlrpc.client import Fault, ServerProxy

import httpx
import redis
from supervisor.xmlrpc import SupervisorTransport

from narrowcast.errors import NarrowcastError
from narrowcast.settings import RedisSettings, StorageSettings
from narrowcast.storage import Storage
from narrowcast_local.stack import servers
from narrowcast_local.stack.programs import Program, supervisor_config

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.2
_STOP_S = 60.0
_STORES_READY_S = 60.0
_MAX_LORA_RANK = "16"
_BASE_MODEL = "smollm2-135m-instruct"
"""Which `make model` gets."""


class StackFailed(Exception):
    """A process of the stack did not come up, or went down."""


class LocalStack:
    """The whole system under one folder, on free loopback ports.

    Data of an earlier run under the same folder is removed; the base model in ``models`` stays.
    """

    def __init__(self, folder: Path, *, models: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self._models = models
        self._extra = environment or {}
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._lock: TextIO | None = None
        self._redis_port, self._s3_port = servers.free_port(), servers.free_port()
        self.inference_port = servers.free_port()
        self.gateway_port = int(os.environ.get("NARROWCAST_HTTP__PORT") or servers.free_port())
        self._password, self._s3_secret = secrets.token_hex(16), secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{self.gateway_port}"
        self.base_model = _BASE_MODEL

    # -- what the processes are told -----------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """The variables of every process: no default secret, so that production mode would start too."""
        return {
            "NARROWCAST_REDIS__URL": f"redis://:{self._password}@127.0.0.1:{self._redis_port}/0",
            "NARROWCAST_STORAGE__ENDPOINT": f"127.0.0.1:{self._s3_port}",
            "NARROWCAST_STORAGE__SECRET_KEY": self._s3_secret,
            "NARROWCAST_HTTP__PORT": str(self.gateway_port),
            "NARROWCAST_SERVERS__BASES": f'{{"{self.base_model}": "http://127.0.0.1:{self.inference_port}"}}',
            "NARROWCAST_TRAINER__MODELS_DIR": str(self._models),
            "NARROWCAST_TRAINER__WORK_DIR": str(self.folder / "trainer"),
            "NARROWCAST_TRAINER__HEARTBEAT_FILE": str(self.folder / "trainer.heartbeat"),
            "NARROWCAST_WORKER__HEARTBEAT_FILE": str(self.folder / "worker.heartbeat"),
            # The three must agree. A low maximum: on a CPU every token pays for it, whatever an adapter has.
            "NARROWCAST_SERVERS__MAX_LORA_RANK": _MAX_LORA_RANK,
            "NARROWCAST_TRAINER__MAX_LORA_RANK": _MAX_LORA_RANK,
            "NARROWCAST_INFERENCE__MAX_LORA_RANK": _MAX_LORA_RANK,
            "PYTHONUNBUFFERED": "1",
            **self._extra,
        }

    def _programs(self) -> list[Program]:
        python = sys.executable
        s3_settings = StorageSettings()
        inference = {
            "NARROWCAST_INFERENCE__BASE_MODEL": self.base_model,
            "NARROWCAST_INFERENCE__BASE_MODEL_PATH": str(self._models / self.base_model),
            "NARROWCAST_INFERENCE__PORT": str(self.inference_port),
            "NARROWCAST_INFERENCE__CACHE_DIR": str(self.folder / "adapters"),
        }
        return [
            Program(
                "valkey",
                servers.valkey(self.folder / "valkey", self._redis_port, self._password).command,
                store=True,
            ),
            Program(
                "s3",
                servers.seaweedfs(
                    self.folder / "s3", self._s3_port, s3_settings.access_key, self._s3_secret
                ).command,
                store=True,
            ),
            Program("gateway", [python, "-m", "narrowcast_gateway"]),
            Program("worker", [python, "-m", "narrowcast_gateway.worker"]),
            Program("trainer", [python, "-m", "narrowcast_trainer"]),
            Program("inference", [python, "-m", "narrowcast_inference"], inference),
        ]

    # -- life ----------------------------------------------------------------------------

    def claim(self) -> None:
        """Take the folder for this stack, until it is stopped.

        Raises:
            StackFailed: another stack runs there.
        """
        if self._lock is None:
            self._lock = _locked(self.folder)

    def start(self) -> None:
        """Start everything; return when the stores answer (the rest comes up by itself).

        Raises:
            StackFailed: a store did not come up, or another stack runs in this folder.
        """
        self.claim()
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.logs.mkdir(parents=True)
        config = self.folder / "supervisord.conf"
        config.write_text(supervisor_config(self.folder, self._programs()))
        config.chmod(0o600)
        with (self.logs / "supervisord.stderr").open("wb") as stderr:
            self._supervisor = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "supervisor.supervisord",
                    "--nodaemon",
                    "--configuration",
                    str(config),
                ],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                # Ctrl-C is ours to handle; and if we die, so does everything we started.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self.wait_until("the stores", self._stores_answer, _STORES_READY_S)

    def stop(self) -> None:
        """Stop everything that was started."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None and supervisor.poll() is None:
            supervisor.send_signal(signal.SIGTERM)
            try:
                supervisor.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                supervisor.kill()
                supervisor.wait()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        """Start."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    # -- while it runs -------------------------------------------------------------------

    def api_key(self, tenant: str) -> str:
        """Create an API key of ``tenant`` through the command line that an administrator uses."""
        command = [sys.executable, "-m", "narrowcast_gateway.keys", "create", tenant]
        done = subprocess.run(
            command, env=os.environ | self.environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def gateway_ready(self) -> bool:
        """Whether the gateway and its stores answer."""
        return _answers(f"{self.url}/readyz")

    def inference_ready(self) -> bool:
        """Whether vLLM answers."""
        url = f"http://127.0.0.1:{self.inference_port}"
        return _answers(f"{url}/health") and _answers(f"{url}/narrowcast/health")

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return supervisord's view of each process: state, pid, exit status."""
        socket = self.folder / "supervisor.sock"
        if not socket.exists():
            return {}
        transport = SupervisorTransport(None, None, f"unix://{socket}")
        try:
            infos: Any = ServerProxy("http://127.0.0.1", transport).supervisor.getAllProcessInfo()
        except (OSError, Fault):
            return {}
        finally:
            transport.close()
        return {info["name"]: info for info in infos}

    def wait_until(
        self, what: str, ready: Callable[[], bool], timeout_s: float, tick: Callable[[], None] | None = None
    ) -> None:
        """Wait for ``ready``, calling ``tick`` while waiting.

        Raises:
            StackFailed: it took too long, or a process of the stack is gone for good.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            self._check_processes()
            if time.monotonic() > deadline:
                raise StackFailed(f"{what} did not come up in {timeout_s:.0f} s; see {self.logs}")
            if tick is not None:
                tick()
            time.sleep(_POLL_S)

    def _check_processes(self) -> None:
        if self._supervisor is not None and self._supervisor.poll() is not None:
            raise StackFailed(f"supervisord ended with status {self._supervisor.returncode}; see {self.logs}")
        for name, info in self.processes().items():
            if info["statename"] in {"FATAL", "EXITED"}:
                raise StackFailed(f"{name} is {info['statename']}; see {self.logs / name}.log")

    def _stores_answer(self) -> bool:
        try:
            settings = RedisSettings.model_validate({"url": self.environment["NARROWCAST_REDIS__URL"]})
            with redis.Redis.from_url(settings.url.get_secret_value()) as client:
                client.ping()
            self.storage().create_buckets()
        except (redis.RedisError, NarrowcastError):
            return False
        return True

    def storage(self) -> Storage:
        """Return the stack's object store."""
        return Storage(
            StorageSettings.model_validate(
                {"endpoint": f"127.0.0.1:{self._s3_port}", "secret_key": self._s3_secret}
            )
        )


def _locked(folder: Path) -> TextIO:
    """Return the lock of a stack's folder, beside it, held until it is closed or this process ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f"{folder.name}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise StackFailed(f"a stack runs in {folder} already; end it first (Ctrl-C where it runs)") from None
    return lock


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

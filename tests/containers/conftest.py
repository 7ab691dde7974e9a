"""The Compose stack without a GPU, up once for all tests: real images, real networks, one published port."""

import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

REPOSITORY = Path(__file__).parents[2]
OURS = ("gateway", "worker", "trainer", "inference")
SERVICES = (*OURS, "redis", "minio")
ONE_SHOTS = ("provisioning", "base-model")
_UP_S = 900


class Compose:
    """``docker compose`` on our files, as a project of its own."""

    def __init__(self, secrets: Path, files: list[Path]) -> None:
        self.secrets = secrets
        self.project = f"narrowcast-test-{uuid.uuid4().hex[:6]}"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._files = [argument for file in files for argument in ("--file", str(file))]

    @property
    def environment(self) -> dict[str, str]:
        own = {"NARROWCAST_SECRETS": str(self.secrets), "NARROWCAST_PORT": str(self.port)}
        return {key: value for key, value in os.environ.items() if key != "COMPOSE_FILE"} | own

    def __call__(self, *arguments: str, check: bool = True, timeout_s: float = 300) -> str:
        command = [
            "docker",
            "compose",
            "--project-directory",
            str(REPOSITORY),
            "--project-name",
            self.project,
        ]
        done = subprocess.run(
            [*command, *self._files, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"docker compose {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def up(self, *arguments: str) -> None:
        self("up", "--detach", "--wait", "--no-build", *arguments, timeout_s=_UP_S)

    def run_in(self, service: str, *command: str, check: bool = True) -> str:
        return self("exec", "-T", service, *command, check=check)

    def container(self, service: str) -> dict[str, Any]:
        """``docker inspect`` of a service's container."""
        container = self("ps", "--all", "--quiet", service).strip()
        inspected: list[dict[str, Any]] = json.loads(_docker("inspect", container))
        return inspected[0]

    def kill(self, service: str) -> None:
        """Kill -9 everything in a container but its init, which ends then, as after a crash."""
        before = self.container(service)["RestartCount"]
        self.run_in(service, "sh", "-c", "kill -9 -1", check=False)
        self.wait(
            f"Docker to restart {service}",
            lambda: self.container(service)["RestartCount"] > before,
            timeout_s=60,
        )

    def wait_healthy(self, service: str, timeout_s: float = 300) -> None:
        def healthy() -> bool:
            state = self.container(service)["State"]
            return bool(state["Running"] and state.get("Health", {}).get("Status") == "healthy")

        self.wait(f"{service} to be healthy", healthy, timeout_s)

    def wait(self, what: str, holds: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
            time.sleep(0.5)


class Client(httpx.Client):
    """Asks again while a part of the system is away, as a RIS would."""

    def ask(self, method: str, path: str, **arguments: Any) -> Any:
        deadline = time.monotonic() + 180
        while True:
            try:
                answer = self.request(method, path, **arguments)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code < 500:
                assert answer.is_success, answer.text
                return answer.json()
            assert time.monotonic() < deadline, "no answer" if answer is None else answer.text
            time.sleep(0.5)


@pytest.fixture(scope="session")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    if shutil.which("docker") is None or not _succeeds("docker", "info"):
        pytest.skip("no Docker engine answers")
    secrets = tmp_path_factory.mktemp("stack") / "secrets"
    subprocess.run(
        ["sh", str(REPOSITORY / "deploy" / "secrets.sh"), str(secrets)], check=True, capture_output=True
    )
    files = [REPOSITORY / "docker-compose.yml", REPOSITORY / "docker-compose.cpu.yml"]
    files.append(Path(__file__).with_name("fast.yml"))
    project = Compose(secrets, files)
    try:
        project.up()
        yield project
    finally:
        if os.environ.get("NARROWCAST_KEEP_STACK") is None:
            project("down", "--volumes", "--timeout", "5", check=False)


@pytest.fixture(scope="session")
def client(compose: Compose) -> Iterator[Client]:
    key = compose.run_in("gateway", "python", "-m", "narrowcast_gateway.keys", "create", "radiology").strip()
    headers = {"Authorization": f"Bearer {key}"}
    with Client(base_url=f"{compose.url}/v1", headers=headers, timeout=300) as http:
        yield http


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

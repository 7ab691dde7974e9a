"""The stack as its users meet it: hardened, closed but for one port, and hard to kill.

The tests build on each other, in this order, because the stack takes a minute to come up.
"""

import io
import json
import subprocess
import time
import zipfile
from typing import Any

import pytest

from .conftest import ONE_SHOTS, OURS, REPOSITORY, SERVICES, Client, Compose

pytestmark = pytest.mark.timeout(1800)
SAMPLES = REPOSITORY / "tools" / "samples"
BASE = "smollm2-135m-instruct"
IMPRESSION = "МР-признаки грыжи диска L5-S1."
_COPIES = 15
_ENDED = {"succeeded", "failed", "cancelled"}


def test_everything_is_up_and_one_port_is_published(compose: Compose) -> None:
    for service in ONE_SHOTS:
        assert compose.container(service)["State"]["ExitCode"] == 0
    published = {}
    for service in SERVICES:
        ports = compose.container(service)["NetworkSettings"]["Ports"]
        published[service] = {port: to for port, to in ports.items() if to}
    gateway = published.pop("gateway")
    assert gateway == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(compose.port)}]}
    assert not any(published.values())


def test_containers_are_hardened(compose: Compose) -> None:
    secrets = [path.read_text() for path in compose.secrets.iterdir() if path.stat().st_size]
    for service in (*SERVICES, *ONE_SHOTS):
        container = compose.container(service)
        host = container["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert not host["Privileged"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        if service != "minio":  # its image knows no other user
            assert container["Config"]["User"] not in {"", "root", "0"}, service
        described = json.dumps(container)
        assert not any(secret in described for secret in secrets), f"{service} shows a secret"


@pytest.mark.parametrize(
    ("service", "reaches", "does_not_reach"),
    [
        ("gateway", ["redis:6379", "minio:9000", "inference:8001"], []),
        ("worker", ["redis:6379", "minio:9000", "inference:8001"], ["1.1.1.1:443"]),
        ("trainer", ["redis:6379", "minio:9000", "inference:8001"], ["1.1.1.1:443"]),
        ("inference", ["minio:9000"], ["redis:6379", "1.1.1.1:443"]),
    ],
)
def test_networks(compose: Compose, service: str, reaches: list[str], does_not_reach: list[str]) -> None:
    script = (
        "import socket, sys\n"
        "for place in sys.argv[1:]:\n"
        "    host, port = place.split(':')\n"
        "    try:\n"
        "        socket.create_connection((host, int(port)), 3).close()\n"
        "        print('yes')\n"
        "    except OSError:\n"
        "        print('no')\n"
    )
    answers = compose.run_in(service, "python", "-c", script, *reaches, *does_not_reach).split()
    assert answers == ["yes"] * len(reaches) + ["no"] * len(does_not_reach)


def test_each_service_may_do_only_its_own(compose: Compose) -> None:
    script = (
        "from narrowcast.errors import NarrowcastError\n"
        "from narrowcast.settings import CommonSettings\n"
        "from narrowcast.storage import Storage\n"
        "storage = Storage(CommonSettings().storage)\n"
        "def attempt(what):\n"
        "    try:\n"
        "        what()\n"
        "        return 'done'\n"
        "    except NarrowcastError as error:\n"
        "        return error.code\n"
        "print(attempt(lambda: storage.documents.get('t/x')),\n"
        "      attempt(lambda: storage.models.put('adapters/t/x', b'')),\n"
        "      attempt(lambda: storage.models.get('adapters/t/y')))\n"
    )
    answers = {service: compose.run_in(service, "python", "-c", script).split() for service in OURS}
    assert answers == {
        "gateway": ["storage_refused", "storage_refused", "not_found"],
        "worker": ["not_found", "storage_refused", "not_found"],
        "trainer": ["storage_refused", "done", "not_found"],
        "inference": ["storage_refused", "storage_refused", "not_found"],
    }


def test_the_main_job_survives_the_death_of_each_container(compose: Compose, client: Client) -> None:
    # Documents, while the worker and the gateway die.
    corpus = client.ask("POST", "/corpora", files={"files": ("reports.zip", _corpus(_COPIES))})
    _wait(client, f"/corpora/{corpus['id']}", lambda job: job["status"] == "running")
    compose.kill("worker")
    compose.kill("gateway")
    corpus = _ended(client, f"/corpora/{corpus['id']}")
    assert corpus["status"] == "succeeded", corpus

    # Training, while both stores, the gateway and the trainer die.
    small = _ended(client, f"/corpora/{_upload(client)}")
    job = _train(client, small["dataset"])
    path = f"/fine_tuning/jobs/{job['id']}"
    for number, service in enumerate(("redis", "minio", "gateway", "trainer")):
        _wait_for_event(client, path, "checkpoint at step", more_than=number)
        compose.kill(service)
        compose.wait_healthy(service)
    job = _ended(client, path)
    assert job["status"] == "succeeded", (job, _events(client, path))
    assert any("resumed after step" in message for message in _events(client, path))

    # A draft, after the death of inference.
    model = job["fine_tuned_model"]
    assert _draft(client, model)
    compose.kill("inference")
    compose.wait_healthy("inference")
    assert _draft(client, model)

    # An evaluation, while the worker dies.
    evaluation = client.ask(
        "POST", "/evaluations", json={"dataset": small["dataset"], "models": [BASE, model], "max_tokens": 40}
    )
    _wait(client, f"/evaluations/{evaluation['id']}", lambda job: job["status"] == "running")
    compose.kill("worker")
    evaluation = _ended(client, f"/evaluations/{evaluation['id']}")
    assert evaluation["status"] == "succeeded", evaluation


def test_down_and_up_lose_nothing(compose: Compose, client: Client) -> None:
    before = _everything(client)
    assert before["models"]
    compose("down", "--timeout", "30")
    compose.up()
    assert _everything(client) == before
    adapter = next(model["id"] for model in before["models"] if model["id"] != BASE)
    assert _draft(client, adapter)


def test_an_upgrade_with_jobs_in_flight_loses_nothing(compose: Compose, client: Client) -> None:
    job = _train(client, _ended(client, f"/corpora/{_upload(client)}")["dataset"])
    path = f"/fine_tuning/jobs/{job['id']}"
    _wait_for_event(client, path, "checkpoint at step")
    corpus = client.ask("POST", "/corpora", files={"files": ("reports.zip", _corpus(_COPIES))})
    # What a new version does: every container of ours is stopped, replaced and started.
    compose.up("--force-recreate", "--no-deps", *OURS)
    corpus = _ended(client, f"/corpora/{corpus['id']}")
    assert corpus["status"] == "succeeded", corpus
    job = _ended(client, path)
    assert job["status"] == "succeeded", job
    assert any("resumed after step" in message for message in _events(client, path))


def test_backup_and_restore_in_containers(compose: Compose, client: Client, tmp_path: Any) -> None:
    before = _everything(client)
    environment = compose.environment | {
        "COMPOSE_PROJECT_NAME": compose.project,
        "COMPOSE_FILE": ":".join(compose._files[1::2]),
    }

    def script(name: str) -> None:
        command = ["sh", str(REPOSITORY / "deploy" / "backup" / name), str(tmp_path / "backup")]
        done = subprocess.run(
            command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    if subprocess.run(
        ["docker", "image", "inspect", "rclone/rclone:1.75"], capture_output=True, check=False
    ).returncode:
        pytest.skip("no image rclone/rclone:1.75 here")
    script("backup.sh")
    compose("down", "--timeout", "30")
    volumes = [f"{compose.project}_{volume}" for volume in ("redis", "minio")]
    subprocess.run(["docker", "volume", "rm", *volumes], check=True, capture_output=True)
    compose.up("redis", "minio")
    compose("run", "--rm", "-T", "provisioning")
    compose("stop", "redis")
    compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "redis", "-c", "rm -rf /data/*")
    script("restore.sh")
    compose.up()
    assert _everything(client) == before
    adapter = next(model["id"] for model in before["models"] if model["id"] != BASE)
    assert _draft(client, adapter)


def test_metrics_and_logs_tell_what_happened_and_no_more(compose: Compose) -> None:
    script = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    for service in ("gateway", "worker", "trainer"):
        assert "narrowcast_" in compose.run_in(
            service, "python", "-c", script, "http://127.0.0.1:9100/metrics"
        )
    assert "vllm:" in compose.run_in("inference", "python", "-c", script, "http://127.0.0.1:8001/metrics")

    logs = compose("logs", "--no-color", "--no-log-prefix", *SERVICES)
    secrets = [path.read_text() for path in compose.secrets.iterdir() if path.stat().st_size]
    assert not any(secret in logs for secret in secrets)
    truth = [json.loads(line) for line in (SAMPLES / "truth.jsonl").read_text().splitlines()]
    texts = [sentence for report in truth for sentence in _sentences(report)]
    assert len(texts) > 100
    assert not [text for text in texts if text in logs]
    assert IMPRESSION not in logs


def _corpus(copies: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for copy in range(copies):
            for path in sorted(SAMPLES.glob("report-*.doc*")):
                archive.write(path, f"{copy}/{path.name}")
    return buffer.getvalue()


def _upload(client: Client) -> str:
    files = [("files", (path.name, path.read_bytes())) for path in sorted(SAMPLES.glob("report-*.docx"))]
    corpus_id: str = client.ask("POST", "/corpora", files=files)["id"]
    return corpus_id


def _train(client: Client, dataset: str) -> Any:
    hyper = {"n_epochs": 2, "batch_size": 1}
    method = {"type": "supervised", "supervised": {"hyperparameters": hyper}}
    body = {"model": BASE, "training_file": dataset, "suffix": "mri", "method": method}
    return client.ask("POST", "/fine_tuning/jobs", json=body)


def _draft(client: Client, model: str) -> str:
    body = {"model": model, "impression": IMPRESSION, "max_tokens": 20}
    text: str = client.ask("POST", "/reports", json=body)["description"]
    return text


def _wait(client: Client, path: str, holds: Any, timeout_s: float = 900) -> Any:
    deadline = time.monotonic() + timeout_s
    while not holds(job := client.ask("GET", path)):
        assert job["status"] not in _ENDED, job
        assert time.monotonic() < deadline, job
        time.sleep(0.3)
    return job


def _ended(client: Client, path: str) -> Any:
    return _wait(client, path, lambda job: job["status"] in _ENDED)


def _events(client: Client, path: str) -> list[str]:
    return [event["message"] for event in client.ask("GET", f"{path}/events?limit=100")["data"]]


def _wait_for_event(client: Client, path: str, start: str, more_than: int = 0) -> None:
    def seen(job: Any) -> bool:
        assert job["status"] not in _ENDED, (job, _events(client, path))
        return sum(message.startswith(start) for message in _events(client, path)) > more_than

    _wait(client, path, seen)


def _everything(client: Client) -> dict[str, Any]:
    return {
        "models": client.ask("GET", "/models")["data"],
        "jobs": client.ask("GET", "/fine_tuning/jobs")["data"],
        "datasets": client.ask("GET", "/datasets")["data"],
    }


def _sentences(report: dict[str, Any]) -> list[str]:
    return [
        line for key in ("description", "conclusion") for line in report[key].split("\n") if len(line) > 20
    ]

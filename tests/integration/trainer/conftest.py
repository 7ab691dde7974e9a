"""A toy base model, a dataset, and real trainer workers as processes of their own."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from narrowcast.adapters import AdapterManifest, BaseModelRef, PromptRef, adapter_prefix
from narrowcast.artifacts import MANIFEST, publish, read_manifest
from narrowcast.connections import Connections
from narrowcast.datasets import DatasetManifest, Row, dataset_prefix, split_file, to_jsonl
from narrowcast.deletions import DeletedAdapters
from narrowcast.ids import new_id
from narrowcast.jobs.reaper import Reaper
from narrowcast.jobs.records import Job, JobKind, JobStatus
from narrowcast.prompts import TEMPLATE_ID, instruction_for
from narrowcast.settings import JobSettings, Settings
from narrowcast.training import Hyperparameters, TrainingSpec
from narrowcast_trainer.checkpoints import Checkpoints
from narrowcast_trainer.protocol import TrainingOrder
from narrowcast_trainer.settings import TrainerSettings, TrainingSettings

TOY, REAL = "toy", "real"
WORKER = "a-worker"
"""Runs what :meth:`Desk.running` returns, if anybody does."""
_GPUS_ON_CPU = Path(__file__).with_name("gpus_on_cpu")
_TIMEOUT_S = 240.0


@pytest.fixture(scope="session")
def models_dir(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``toy``: a random Llama of two layers with the real model's tokenizer and template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models")
    (folder / TOY).mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(base_model / name, folder / TOY / name)
    original = json.loads((base_model / "config.json").read_text())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=original["vocab_size"],
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=original["bos_token_id"],
        eos_token_id=original["eos_token_id"],
        pad_token_id=original["pad_token_id"],
    )
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder / TOY)
    return folder


@pytest.fixture
def real_base(models_dir: Path, base_model: Path) -> None:
    """Put ``real`` beside it, the real small model."""
    if not (models_dir / REAL).exists():
        shutil.copytree(base_model, models_dir / REAL)


@pytest.fixture(params=["8.0", "7.5"], ids=["ampere", "turing"])
def on_gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainings of this process, and of those that it starts, go as on GPUs of each kind."""
    from accelerate.state import AcceleratorState

    from narrowcast_trainer.engines import precision

    monkeypatch.setenv("CUDA_CAPABILITY", request.param)
    monkeypatch.setenv("PYTHONPATH", str(_GPUS_ON_CPU), prepend=os.pathsep)
    # As they are now, to be put back afterwards.
    monkeypatch.setattr(AcceleratorState, "__init__", AcceleratorState.__init__)
    monkeypatch.setattr(precision, "capability", precision.capability)
    runpy.run_path(str(_GPUS_ON_CPU / "sitecustomize.py"))


@pytest.fixture
def trainer_settings(settings: Settings, models_dir: Path, tmp_path: Path) -> TrainerSettings:
    """Settings of a worker on the running servers."""
    return TrainerSettings(
        redis=settings.redis,
        storage=settings.storage,
        jobs=JobSettings(lease_s=4, reap_every_s=0.5, max_attempts=3),
        trainer=TrainingSettings(
            models_dir=models_dir,
            work_dir=tmp_path / "work",
            heartbeat_file=tmp_path / "heartbeat",
            checkpoint_every_s=2.0,
            stop_grace_s=30.0,
            llama_cpp_dir=Path(os.environ.get("NARROWCAST_TEST_LLAMA_CPP", ".local/llama.cpp")).resolve(),
            threads=1,
        ),
    )


def rows(count: int, start: int = 0) -> list[Row]:
    """Return different rows of different lengths."""
    return [
        Row(
            instruction=instruction_for("МРТ коленного сустава"),
            input=f"Разрыв мениска, случай {number}.",
            output="Мениск повышенной интенсивности. " * (1 + number % 5) + f"Размер {number} мм.",
            document=f"doc-{number}",
        )
        for number in range(start, start + count)
    ]


def order_of(job: Job, settings: TrainerSettings) -> TrainingOrder:
    """Return what a worker with these settings tells a job's process."""
    return TrainingOrder(
        job_id=job.id,
        tenant=job.tenant,
        spec=TrainingSpec.model_validate(job.spec),
        settings=settings.trainer,
        storage=settings.storage,
    )


@dataclass
class Desk:
    """What a test does at the gateway's place."""

    connections: Connections
    tenant: str

    def dataset(self, train: list[Row], validation: list[Row] | None = None) -> str:
        """Publish a dataset; return its id."""
        dataset_id = new_id("ds")
        splits = {"train": train, "validation": validation or []}
        manifest = DatasetManifest(
            id=dataset_id,
            tenant=self.tenant,
            source="corpus-0",
            rows={name: len(content) for name, content in splits.items()},
            prompt_template=TEMPLATE_ID,
        )
        files = {split_file(name): to_jsonl(content) for name, content in splits.items()}  # type: ignore[arg-type]
        publish(self.connections.storage.data, dataset_prefix(self.tenant, dataset_id), files, manifest)
        return dataset_id

    def submit(
        self,
        dataset: str,
        base: str = TOY,
        hyper: dict[str, Any] | None = None,
        fingerprints: tuple[str, ...] = (),
    ) -> Job:
        """Submit a training job."""
        defaults = {"rank": 8, "alpha": 16, "batch_size": 2, "learning_rate": 1e-2, "n_epochs": 2}
        job_id = new_id("ftjob")
        spec = TrainingSpec(
            base_model=base,
            dataset=dataset,
            adapter_id=f"a-{job_id.removeprefix('ftjob-')}",
            hyperparameters=Hyperparameters.model_validate(defaults | (hyper or {})),
            served_fingerprints=fingerprints,
        )
        job = Job(id=job_id, kind=JobKind.TRAINING, tenant=self.tenant, spec=spec.model_dump())
        self.connections.jobs.submit(job)
        return job

    def running(self) -> Job:
        """Submit a job and claim it as :data:`WORKER`."""
        return self.connections.jobs.claim(self.submit("ds-0").id, WORKER)

    def publish(self, adapter_id: str, maker: str) -> None:
        """Put an adapter there as a job does."""
        manifest = AdapterManifest(
            id=adapter_id,
            tenant=self.tenant,
            base=BaseModelRef(name=TOY, fingerprint="f"),
            prompt=PromptRef(template="t", hash="h", default_instruction="i"),
            rank=8,
            engine="peft",
            dataset="ds-0",
            job=maker,
            metrics={"trained_tokens": 77.0},
        )
        prefix = adapter_prefix(self.tenant, adapter_id)
        publish(self.connections.storage.models, prefix, {"adapter_config.json": b"{}"}, manifest)

    def job(self, job_id: str) -> Job:
        """Return the record."""
        return self.connections.jobs.get(job_id)

    def wait(self, job_id: str, until: Callable[[Job], bool], timeout_s: float = _TIMEOUT_S) -> Job:
        """Return the record as soon as ``until`` holds for it."""
        deadline = time.monotonic() + timeout_s
        while not until(job := self.job(job_id)):
            assert time.monotonic() < deadline, (job, self.events(job_id)[-5:])
            time.sleep(0.05)
        return job

    def ended(self, job_id: str) -> Job:
        """Wait for the job's end."""
        return self.wait(job_id, lambda job: job.status.terminal)

    def events(self, job_id: str) -> list[str]:
        """Return the messages of a job."""
        return [event.message for event in self.connections.jobs.events(job_id, self.tenant)]

    def wait_for_event(self, job_id: str, start: str) -> None:
        """Wait for an event whose message starts so."""

        def there(job: Job) -> bool:
            assert not job.status.terminal or job.status is JobStatus.SUCCEEDED, job
            return any(message.startswith(start) for message in self.events(job_id))

        self.wait(job_id, there)

    @property
    def deleted(self) -> DeletedAdapters:
        """The adapters that users have deleted."""
        return DeletedAdapters(self.connections.redis)

    def checkpoints(self, job_id: str) -> list[str]:
        """Return the keys of a job's checkpoints."""
        return list(self.connections.storage.models.keys(f"checkpoints/{self.tenant}/{job_id}/"))

    def adapter(self, job: Job) -> list[str]:
        """Return the keys of what a job published."""
        return list(self.connections.storage.models.keys(adapter_prefix(self.tenant, job.spec["adapter_id"])))

    def check_adapter(self, job: Job) -> None:
        """Check that what a job published is there, all of it and nothing else."""
        prefix = adapter_prefix(self.tenant, job.spec["adapter_id"])
        manifest = read_manifest(self.connections.storage.models, prefix, AdapterManifest)
        assert sorted(self.adapter(job)) == sorted(prefix + name for name in (*manifest.files, MANIFEST))


@pytest.fixture
def desk(connections: Connections, tenant: str) -> Desk:
    return Desk(connections, tenant)


@pytest.fixture
def checkpoints(desk: Desk) -> Checkpoints:
    return Checkpoints(desk.connections.storage.models, desk.tenant, "ftjob-1", keep=2)


@dataclass
class Worker:
    """A running ``python -m narrowcast_trainer``."""

    settings: TrainerSettings
    log: Path
    arguments: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    """A command that starts the worker's."""
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        trainer = self.settings.trainer.model_dump(mode="json")
        jobs = self.settings.jobs.model_dump()
        storage = self.settings.storage
        environment = {
            "NARROWCAST_REDIS__URL": self.settings.redis.url.get_secret_value(),
            "NARROWCAST_STORAGE__ENDPOINT": storage.endpoint,
            "NARROWCAST_STORAGE__SECRET_KEY": storage.secret_key.get_secret_value(),
            **{f"NARROWCAST_JOBS__{name.upper()}": str(value) for name, value in jobs.items()},
            **{
                f"NARROWCAST_TRAINER__{name.upper()}": json.dumps(value)
                if isinstance(value, list)
                else str(value)
                for name, value in trainer.items()
                if value is not None
            },
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.within, sys.executable, "-m", "narrowcast_trainer", *self.arguments],
                env=os.environ | environment,
                stdout=subprocess.DEVNULL,  # Celery says there, in plain words, that it shuts down
                stderr=log,
                start_new_session=True,
            )

    def terminate(self, timeout_s: float) -> int:
        """Send SIGTERM to the main process, as a container runtime does; return its exit status."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def kill_group(self) -> None:
        """Kill -9 the main process and its pool process at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def training_pids(self) -> list[int]:
        """Return the training processes that the log says were started."""
        return [line["pid"] for line in self.lines() if line["event"] == "training_process_started"]

    def has_killed(self) -> bool:
        """Whether a training that was to stop did not, and so was killed after its grace."""
        return any(line["event"] == "training_process_killed" for line in self.lines())

    def lines(self) -> list[dict[str, Any]]:
        """Return the log; every line of it must be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def start_worker(trainer_settings: TrainerSettings, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers; what still runs at the end is killed."""
    started: list[Worker] = []

    def start(*arguments: str, within: tuple[str, ...] = ()) -> Worker:
        started.append(Worker(trainer_settings, tmp_path / f"worker-{len(started)}.log", arguments, within))
        return started[-1]

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.kill_group()


@pytest.fixture
def reaper(connections: Connections, trainer_settings: TrainerSettings) -> Iterator[None]:
    """Another worker's reaper."""
    thread = Reaper(connections.jobs, trainer_settings.jobs)
    thread.start()
    yield
    thread.stop()


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

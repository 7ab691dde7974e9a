"""One training of the benchmark ``training.py``: ours, or the bare script's, run and timed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from narrowcast.artifacts import publish
from narrowcast.datasets import DatasetManifest, Row, dataset_prefix, split_file, to_jsonl
from narrowcast.errors import NarrowcastError
from narrowcast.estimates.shapes import Device
from narrowcast.ids import new_id
from narrowcast.prompts import TEMPLATE_ID
from narrowcast.settings import StorageSettings
from narrowcast.storage import Storage
from narrowcast.training import Hyperparameters, TrainingSpec
from narrowcast_local.stack import servers
from narrowcast_trainer.child import JobProcess, training_environment
from narrowcast_trainer.engines.precision import capability
from narrowcast_trainer.protocol import Completed, Event, Failed, Measured, Note, TrainingOrder
from narrowcast_trainer.settings import TrainingSettings

TENANT = "bench"
BARE = Path(__file__).with_name("bare_trl.py")
CHECKPOINT_AT = 0.5
"""Share of a bare script's steps after which it writes a checkpoint, and of its time for ours."""
WARM_UP = {"cuda": 2, "cpu": 0}
"""Steps. On a CPU nothing is compiled."""


@dataclass
class Measurement:
    """Of one configuration, over its rounds."""

    seconds: list[float] = field(default_factory=list)
    steps_per_s: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)
    """Written in those seconds."""
    peak_bytes: list[float] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)

    def add(self, steps: int, tokens: float, seconds: float, checkpoints: int) -> None:
        self.seconds.append(seconds)
        self.steps_per_s.append(steps / seconds)
        self.tokens_per_s.append(tokens / seconds)
        self.checkpoints.append(checkpoints)


class _WithTrlLoss(TrainingOrder):
    program: ClassVar[str] = "own_trl_loss"


@dataclass
class _Timed:
    """What our training process says of its steps, and when."""

    began: float = 0.0
    ended: float = 0.0
    first: int = 0
    last: int = 0
    checkpoints: int = 0
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def take(self, event: Event) -> None:
        if isinstance(event, Note) and "total_steps" in event.data:
            self.began = time.monotonic()
        elif isinstance(event, Note) and event.message.startswith("checkpoint at step"):
            self.checkpoints += self.first >= WARM_UP[device()]
        elif isinstance(event, Measured):
            self.ended, self.last = time.monotonic(), event.metrics.step
            if self.first < WARM_UP[device()]:
                self.began, self.first = self.ended, self.last
        elif isinstance(event, Failed):
            raise SystemExit(f"{event.code}: {event.message}")
        elif isinstance(event, Completed):
            self.result = event.result


class Bench:
    """One base, some rows of it, and a place to publish to."""

    def __init__(self, storage: StorageSettings, settings: TrainingSettings, folder: Path) -> None:
        self.storage, self.settings, self.folder = storage, settings, folder

    def dataset(self, rows: list[Row]) -> str:
        manifest = DatasetManifest(
            id=new_id("ds"),
            tenant=TENANT,
            source="generated",
            rows={"train": len(rows)},
            prompt_template=TEMPLATE_ID,
        )
        files = {split_file("train"): to_jsonl(rows)}
        publish(Storage(self.storage).data, dataset_prefix(TENANT, manifest.id), files, manifest)
        return manifest.id

    def own(
        self,
        base: str,
        dataset: str,
        tokens: int,
        hyper: Hyperparameters,
        into: Measurement,
        *,
        beside: Measurement | None = None,
        trl_loss: bool = False,
    ) -> None:
        """Train as the worker does; the time is from the warm-up's end to the last step's.

        Args:
            base: its name.
            dataset: its id.
            tokens: of an epoch.
            hyper: the job's.
            into: takes what is measured.
            beside: a bare script's, which says when ours is halfway and makes a checkpoint.
            trl_loss: compute TRL's loss on a CPU as well.
        """

        def train(seconds: float | None) -> _Timed:
            job = new_id("ftjob")
            spec = TrainingSpec(
                base_model=base, dataset=dataset, adapter_id=f"a-{job}", hyperparameters=hyper
            )
            halfway = {} if seconds is None else {"checkpoint_every_s": CHECKPOINT_AT * seconds}
            settings = self.settings.model_copy(update=halfway)
            kind = _WithTrlLoss if trl_loss else TrainingOrder
            return _trained(
                kind(job_id=job, tenant=TENANT, spec=spec, settings=settings, storage=self.storage)
            )

        timed = train((into.seconds or beside.seconds)[0] if beside else None)
        if beside and timed.checkpoints == 0:  # it is about twice as fast; by its own time then
            timed = train(timed.seconds)
        steps = timed.last - timed.first
        share = steps / timed.last
        into.add(steps, tokens * hyper.n_epochs * share, timed.seconds, timed.checkpoints)
        into.result = timed.result
        into.peak_bytes.append(into.result["metrics"]["peak_memory_bytes"])

    def bare(self, order: dict[str, Any], tokens: int, into: Measurement) -> None:
        """Train as somebody without Narrowcast would, on the same GPU; PyTorch's allocator is as it comes."""
        environment = training_environment(_threads())
        environment.pop("PYTORCH_ALLOC_CONF", None)
        done = subprocess.run(
            [sys.executable, BARE, json.dumps(order | {"warm_up": WARM_UP[device()]})],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        taken = json.loads(done.stdout.splitlines()[-1])
        share = taken["timed"] / taken["steps"]
        into.add(taken["timed"], tokens * share, taken["seconds"], taken["checkpoints"])
        if "peak_bytes" in taken:
            into.peak_bytes.append(taken["peak_bytes"])


def _trained(order: TrainingOrder) -> _Timed:
    timed = _Timed()
    with JobProcess(order, _threads()) as child:
        while child.exit_status() is None or not child.silent:
            for event in child.events(0.2):
                timed.take(event)
    if not timed.result:
        raise SystemExit(f"the training process ended without a result: {child.last_exception}")
    if timed.last == timed.first:
        raise SystemExit(f"{timed.last} steps are none beside the warm-up's {timed.first}: raise --rows")
    return timed


def in_turns(rounds: int, *runs: Callable[[], None]) -> None:
    for number in range(rounds):
        for run in runs if number % 2 == 0 else reversed(runs):
            run()


@contextmanager
def object_store(folder: Path) -> Iterator[StorageSettings]:
    """A real S3 server for the run."""
    port, secret = servers.free_port(), "benchmark-secret"
    settings = StorageSettings.model_validate({"endpoint": f"127.0.0.1:{port}", "secret_key": secret})
    server = servers.seaweedfs(folder / "s3", port, settings.access_key, secret)
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(server.command, stdout=log, stderr=log)
    try:
        for _ in range(120):
            try:
                Storage(settings).create_buckets()
                break
            except NarrowcastError:
                time.sleep(0.5)
        else:
            raise SystemExit((folder / "s3.log").read_text())
        yield settings
    finally:
        process.terminate()
        process.wait()


def _threads() -> int:
    return len(os.sched_getaffinity(0))


def device() -> Device:
    """Return what trainings run on here."""
    return "cpu" if capability().cuda is None else "cuda"

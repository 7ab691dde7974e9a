"""The worker's processes stay light, and their small parts do what they say."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.jobs.heartbeat import Heartbeat
from narrowcast.jobs.stopping import StopRequest
from narrowcast.settings import StorageSettings
from narrowcast.training import TrainingSpec
from narrowcast_trainer import memory
from narrowcast_trainer.checks import base_folder
from narrowcast_trainer.child import training_environment
from narrowcast_trainer.engines import create_engine
from narrowcast_trainer.memory import is_out_of_memory, out_of_memory_kills
from narrowcast_trainer.protocol import EVENT, Failed, Tick, TrainingOrder
from narrowcast_trainer.reasons import reason_of
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.settings import TrainingSettings

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors")


def test_the_worker_imports_nothing_heavy() -> None:
    check = "import sys, narrowcast_trainer.__main__, narrowcast_trainer.run; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert not set(HEAVY) & set(modules.split())


def test_the_order_carries_the_object_store_s_key_and_shows_it_to_nobody_else() -> None:
    order = TrainingOrder(
        job_id="ftjob-1",
        tenant="t",
        spec=TrainingSpec(base_model="b", dataset="ds-1", adapter_id="a-1"),
        settings=TrainingSettings(),
        storage=StorageSettings.model_validate({"secret_key": "geheim"}),
    )
    assert "geheim" not in repr(order)
    received = TrainingOrder.model_validate_json(order.model_dump_json())
    assert received.storage.secret_key.get_secret_value() == "geheim"


def test_events_come_out_as_they_went_in() -> None:
    reader, writer = os.pipe()
    reporter = Reporter(writer)
    reporter.note("привет", rows=3)
    reporter.tick()
    reporter.tick()  # within a second of the one before
    reporter.send(Failed(code="c", message="m"))
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        events = [EVENT.validate_json(line) for line in pipe]
    assert [event.type for event in events] == ["note", "tick", "failed"]
    assert isinstance(events[1], Tick)


def test_a_base_model_is_looked_for_in_its_folder_only(tmp_path: Path) -> None:
    (tmp_path / "models" / "org" / "base").mkdir(parents=True)
    (tmp_path / "models" / "org" / "base" / "config.json").touch()
    (tmp_path / "config.json").touch()
    assert base_folder(tmp_path / "models", "org/base").name == "base"
    for name in ("..", "../models/..", "missing", str(tmp_path)):
        with pytest.raises(Exception, match="has no base model"):
            base_folder(tmp_path / "models", name)


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (MemoryError(), "out_of_memory", False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory", False),
        (RuntimeError("CUDA error: out of memory\nCompile with …"), "out_of_memory", False),
        (RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out_of_memory", False),
        (RuntimeError("NCCL error: Failed to CUDA calloc: out of memory"), "out_of_memory", False),
        (RuntimeError("std::bad_alloc"), "out_of_memory", False),
        (OSError(12, "Cannot allocate memory"), "out_of_memory", False),
        (OSError(28, "No space left on device"), "disk_full", True),
        (OSError(122, "Disk quota exceeded"), "disk_full", True),
        (Exception("Error while serializing: I/O error: … (os error 28)"), "disk_full", True),
        # PyTorch does not say why; there is room, so it was something else.
        (RuntimeError("[enforce fail] PytorchStreamWriter failed writing file"), "training_crashed", True),
        (RuntimeError("CUDA error: Пациент Иванов"), "training_crashed", True),
        (ValueError("Пациент Иванов"), "training_crashed", False),
        (Unavailable("no S3", code="storage_unavailable"), "storage_unavailable", True),
        (JobFailed("bad", code="training_diverged"), "training_diverged", False),
    ],
)
def test_reasons_name_a_code_and_never_quote(
    error: Exception, code: str, retry: bool, tmp_path: Path
) -> None:
    reason = reason_of(error, tmp_path)
    assert (reason.code, reason.retry) == (code, retry)
    assert "Иванов" not in reason.message
    if code == "training_crashed":
        assert reason.message == (
            f"the training stopped with {type(error).__name__}: see the trainer's log under the job's id for why"
        )


def test_what_caused_an_error_counts() -> None:
    error = ValueError("a weight could not be quantised")
    assert not is_out_of_memory(error)
    error.__cause__ = RuntimeError("CUDA error: out of memory")
    assert is_out_of_memory(error)


def test_an_engine_this_node_lacks_is_refused() -> None:
    with pytest.raises(JobFailed) as refused:
        create_engine("unsloth")
    assert refused.value.code == "engine_unavailable"


def test_the_heartbeat_of_an_idle_and_of_a_stuck_worker(tmp_path: Path) -> None:
    heartbeat = Heartbeat(tmp_path / "run" / "heartbeat")
    assert not heartbeat.is_fresh(10)
    heartbeat.beat_if_idle()
    assert heartbeat.is_fresh(10)
    old = time.time() - 100
    with heartbeat.busy():
        os.utime(tmp_path / "run" / "heartbeat", (old, old))
        heartbeat.beat_if_idle()  # the main loop turns, the training does not move
        assert not heartbeat.is_fresh(10)
        heartbeat.beat()
        assert heartbeat.is_fresh(10)
    os.utime(tmp_path / "run" / "heartbeat", (old, old))
    heartbeat.beat_if_idle()
    assert heartbeat.is_fresh(10)


def test_a_killed_job_s_marker_does_not_silence_the_next_worker(tmp_path: Path) -> None:
    """In a container, whose files may outlive it, processes have the same ids again."""
    heartbeat = Heartbeat(tmp_path / "heartbeat")
    (tmp_path / "heartbeat.busy").write_text(str(os.getppid()))
    heartbeat.start()
    old = time.time() - 100
    os.utime(tmp_path / "heartbeat", (old, old))
    heartbeat.beat_if_idle()
    assert heartbeat.is_fresh(10)


def test_a_heartbeat_that_cannot_be_written_ends_no_job(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    heartbeat = Heartbeat(tmp_path / "file" / "heartbeat")
    with heartbeat.busy():
        heartbeat.beat()
    assert not heartbeat.is_fresh(10)


def test_a_stop_request_is_seen_across_a_fork() -> None:
    stop = StopRequest()
    assert not stop.is_set()
    child = os.fork()
    if child == 0:
        deadline = time.monotonic() + 10
        while not stop.is_set() and time.monotonic() < deadline:
            time.sleep(0.01)
        os._exit(0 if stop.is_set() else 1)
    stop.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stop.is_set()


def test_the_kernel_s_kills_are_those_of_our_group_or_else_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path / path.lstrip("/"))
    files = {
        "proc/self/cgroup": "1:name=systemd:/other\n0::/pod/job\n",
        "sys/fs/cgroup/pod/job/memory.events": "high 7\noom 4\noom_kill 2\noom_group_kill 1\n",
        "proc/vmstat": "nr_free_pages 9\noom_kill 5\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    ours, whole = (tmp_path / name for name in list(files)[1:])
    assert out_of_memory_kills() == 2
    ours.write_text("high 7\n")  # of an older kernel
    assert out_of_memory_kills() == 5
    ours.unlink()
    assert out_of_memory_kills() == 5
    whole.unlink()
    assert out_of_memory_kills() == 0


@pytest.mark.parametrize(("set_to", "seen"), [(None, "0"), ("", ""), ("2,3", "2"), ("GPU-5e", "GPU-5e")])
def test_a_training_sees_one_gpu(monkeypatch: pytest.MonkeyPatch, set_to: str | None, seen: str) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if set_to is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", set_to)
    assert training_environment(1)["CUDA_VISIBLE_DEVICES"] == seen


@pytest.mark.parametrize(
    ("release", "set_by_user", "seen"),
    [
        ("6.8.0-generic", {}, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ("6.8.0-generic", {"PYTORCH_ALLOC_CONF": "backend:native"}, {"PYTORCH_ALLOC_CONF": "backend:native"}),
        ("6.8.0-generic", {"PYTORCH_CUDA_ALLOC_CONF": "a:b"}, {"PYTORCH_CUDA_ALLOC_CONF": "a:b"}),
        ("6.6.87-microsoft-standard-WSL2", {}, {}),
    ],
)
def test_gpu_memory_grows_in_place_where_it_can(
    monkeypatch: pytest.MonkeyPatch, release: str, set_by_user: dict[str, str], seen: dict[str, str]
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_by_user.items():
        monkeypatch.setenv(name, value)
    environment = training_environment(1)
    assert {name: value for name, value in environment.items() if "ALLOC" in name} == seen

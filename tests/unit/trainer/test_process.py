"""How a job's process ends for its worker, and what the worker does beside its jobs."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from narrowcast.errors import JobFailed, Unavailable
from narrowcast.jobs.records import Job, JobKind
from narrowcast.jobs.running import RunningJob
from narrowcast.settings import StorageSettings
from narrowcast.training import TrainingMetrics, TrainingSpec
from narrowcast_trainer import worker
from narrowcast_trainer.process import OutOfMemory, Supervision
from narrowcast_trainer.protocol import OUT_OF_MEMORY, Failed, TrainingOrder
from narrowcast_trainer.settings import TrainingSettings


@pytest.fixture
def supervision() -> Supervision:
    job = Job(id="ftjob-1", kind=JobKind.TRAINING, tenant="t", spec={})
    order = TrainingOrder(
        job_id=job.id,
        tenant=job.tenant,
        spec=TrainingSpec(base_model="b", dataset="ds-1", adapter_id="a-1"),
        settings=TrainingSettings(),
        storage=StorageSettings(),
    )
    return Supervision(RunningJob(None, job, "w"), order, lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("retry", "kind"), [(False, JobFailed), (True, Unavailable)])
def test_what_a_process_says_of_its_failure_is_the_job_s(
    supervision: Supervision, retry: bool, kind: type[Exception]
) -> None:
    supervision._outcome = Failed(code="c", message="m", param="p", retry=retry)
    with pytest.raises(kind) as ended:
        supervision._conclude(1, "ValueError", kernel_killed=False)
    error: Any = ended.value
    assert (error.code, error.message, error.param) == ("c", "m", "p")


def test_a_process_without_memory_says_what_to_do(supervision: Supervision) -> None:
    supervision._micro_batch = 4
    supervision._outcome = Failed(code="out_of_memory", message="all trials failed")
    with pytest.raises(OutOfMemory) as said:
        supervision._conclude(1, None, kernel_killed=False)
    assert (said.value.code, said.value.message, said.value.micro_batch) == (
        "out_of_memory",
        "all trials failed",
        4,
    )


def test_of_a_process_that_the_kernel_killed_it_is_said(supervision: Supervision) -> None:
    with pytest.raises(OutOfMemory) as killed:
        supervision._conclude(-signal.SIGKILL, None, kernel_killed=True)
    assert killed.value.message == OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("status", "exception", "said"),
    [
        (-signal.SIGKILL, None, ("SIGKILL", "micro_batch", "max_length", "machine and its container", "log")),
        (-signal.SIGSEGV, None, ("SIGSEGV", "the trainer's log under the job's id")),
        (3, "RuntimeError", ("exit status 3 after RuntimeError", "the trainer's log under the job's id")),
    ],
)
def test_a_process_that_ended_without_a_word_says_what_to_do(
    supervision: Supervision, status: int, exception: str | None, said: tuple[str, ...]
) -> None:
    with pytest.raises(Unavailable) as crashed:
        supervision._conclude(status, exception, kernel_killed=False)
    assert crashed.value.code == "training_crashed"
    assert all(words in crashed.value.message for words in said), crashed.value.message


class _Over(BaseException):
    pass


def test_what_fails_in_the_background_keeps_nothing_else_from_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    def fail(*_: object) -> int:
        done.append("failed")
        raise ValueError

    def end(*_: object) -> int:
        done.append("ran")
        if done.count("ran") == 2:
            raise _Over
        return 1

    failing = ("report_node", "sweep_checkpoints", "sweep_adapters", "sweep_exports")
    for name in failing:
        monkeypatch.setattr(worker, name, fail)
    monkeypatch.setattr(worker, "sweep_work_dir", end)
    monkeypatch.setattr(worker, "_BACKGROUND_S", 0.0)
    connections: Any = SimpleNamespace(redis=None, jobs=None, storage=SimpleNamespace(models=None))
    with pytest.raises(_Over):
        worker._background(connections, TrainingSettings())
    assert done == [*["failed"] * len(failing), "ran"] * 2


@pytest.mark.parametrize(("steps", "told"), [(351, 351), (5000, 5000), (12_000, 4001), (43_200, 4801)])
def test_a_long_training_tells_of_its_beginning_and_its_end(
    supervision: Supervision, steps: int, told: int
) -> None:
    seen = [
        step
        for step in range(1, steps + 1)
        if supervision._worth_an_event(
            TrainingMetrics(step=step, total_steps=steps, epoch=0.0, train_loss=1.0)
        )
    ]
    assert len(seen) == pytest.approx(told, abs=1)
    assert seen[0] <= 10
    assert seen[-1] == steps
    validation = TrainingMetrics(step=2, total_steps=steps, epoch=0.0, valid_loss=1.0)
    assert supervision._worth_an_event(validation)

"""One training on several ranks: a process a GPU of this node, as ``torchrun`` has them.

The supervised process is rank 0 and starts the others for as long as an engine trains. torchrun
itself is not used: its workers share one standard input and one way to be told to stop, and it ends a
training that is to leave a checkpoint after 30 seconds. Ranks other than 0 only compute: they get rows,
hyper-parameters and a checkpoint's folder, no key of any store, and say nothing but why they failed.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pydantic import BaseModel, ValidationError

from narrowcast import logs
from narrowcast.errors import JobFailed, NarrowcastError
from narrowcast.estimates.shapes import ranks_that_share
from narrowcast.training import EngineName, Hyperparameters
from narrowcast_trainer.checkpoints import Resumable
from narrowcast_trainer.data import Example
from narrowcast_trainer.engines.base import Engine, Trained, TrainingStopped, TrainingTask
from narrowcast_trainer.memory import is_out_of_memory
from narrowcast_trainer.protocol import EVENT, Failed
from narrowcast_trainer.reasons import SEE_LOG
from narrowcast_trainer.reporter import Reporter
from narrowcast_trainer.settings import TrainingSettings

_log = logs.get(__name__)
_POLL_S: Final = 0.2
_GRACE_S: Final = 10.0
"""From a rank's end until rank 0, whose collective operations fail then or hang, ends as well."""
_VARIABLES: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_FSDP_VARIABLES: Final = ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")


class RankOrder(BaseModel):
    """What a rank other than 0 needs to know; see :class:`TrainingTask`."""

    job_id: str
    log_level: str
    engine: EngineName
    base: Path
    hyperparameters: Hyperparameters
    settings: TrainingSettings
    train: list[Example]
    validation: list[Example]
    pad_id: int
    scratch: Path
    resume: Resumable | None
    max_micro_batch: int | None


def rank_count(settings: TrainingSettings, hyper: Hyperparameters) -> int:
    """Return on how many ranks to train: as many as set, if they share every batch evenly, else fewer."""
    return ranks_that_share(hyper.batch_sizes, settings.nproc_per_node)


def world_size() -> int:
    """Return how many ranks this process is one of; 1 where it trains alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return which of them it is."""
    return int(os.environ.get("RANK", "0"))


class SeveralRanks:
    """An engine on several ranks; see :class:`~narrowcast_trainer.engines.base.Engine`."""

    def __init__(self, engine: Engine, ranks: int, *, job_id: str, log_level: str) -> None:
        self.name = engine.name
        self._engine = engine
        self._ranks = ranks
        self._job_id = job_id
        self._log_level = log_level

    def train(self, task: TrainingTask) -> Trained:
        """Run the task to its end, on all ranks."""
        order = RankOrder(
            job_id=self._job_id,
            log_level=self._log_level,
            engine=self._engine.name,
            base=task.base,
            hyperparameters=task.hyperparameters,
            # Trackers hear it from rank 0.
            settings=task.settings.model_copy(update={"report_to": ()}),
            train=task.train,
            validation=task.validation,
            pad_id=task.pad_id,
            scratch=task.scratch,
            resume=task.resume,
            max_micro_batch=task.max_micro_batch,
        )
        with _OtherRanks(order, self._ranks, task.reporter):
            return self._engine.train(task)

    def smoke_test(self, task: TrainingTask, adapter: Path) -> None:
        """Try the adapter out, in this process alone."""
        self._engine.smoke_test(task, adapter)


class _OtherRanks:
    """A context manager: inside it this process is rank 0, and the others live."""

    def __init__(self, order: RankOrder, ranks: int, reporter: Reporter) -> None:
        self._order = order
        self._ranks = ranks
        self._reporter = reporter
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[int] = []
        self._left = threading.Event()
        self._watch = threading.Thread(target=self._end_with_them, name="ranks", daemon=True)

    def __enter__(self) -> Self:
        os.environ.update(environment(0, self._ranks, free_port(), self._order.settings))
        join()
        try:
            for number in range(1, self._ranks):
                self._start(number)
        except BaseException:
            self._kill()
            raise
        self._watch.start()
        return self

    def _start(self, number: int) -> None:
        reader, writer = os.pipe()
        self._readers.append(reader)
        try:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "narrowcast_trainer.rank"),
                    *("--events", str(writer), "--parent", str(os.getpid())),
                ],
                stdin=subprocess.PIPE,
                pass_fds=(writer,),
                env=os.environ | {"RANK": str(number), "LOCAL_RANK": str(number)},
            )
        finally:
            os.close(writer)
        self._processes.append(process)
        assert process.stdin is not None  # noqa: S101 - asked for above
        with process.stdin as stdin:
            stdin.write(self._order.model_dump_json().encode())

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._left.set()
        try:
            ours = isinstance(error, NarrowcastError | TrainingStopped)
            if isinstance(error, Exception) and not ours and not is_out_of_memory(error):
                # The end of another rank is seen here as a connection that broke.
                self._raise_failure(error)
        finally:
            self._kill()

    def _raise_failure(self, error: Exception) -> None:
        deadline = time.monotonic() + _GRACE_S
        while (index := self._failed()) is None:
            if time.monotonic() >= deadline:
                return
            time.sleep(_POLL_S)
        raise self._reason(index).as_error() from error

    def _failed(self) -> int | None:
        return next((i for i, process in enumerate(self._processes) if process.poll()), None)

    def _reason(self, index: int) -> Failed:
        """Return what a dead rank said; end as it did if a signal ended it before it could say anything."""
        status = self._processes[index].returncode
        if status < 0:
            # Whoever supervises us sees then what it would of a single process: the kernel's
            # killing for want of memory, say.
            os.kill(os.getpid(), -status)
        said = os.read(self._readers[index], 65536)  # no more fits a pipe whose reader waits until the end
        try:
            event = EVENT.validate_json(said)
        except ValidationError:
            event = None
        if isinstance(event, Failed):
            return event
        message = f"rank {index + 1} of the training ended with exit status {status}: {SEE_LOG}"
        return Failed(code="training_crashed", message=message, retry=True)

    def _end_with_them(self) -> None:
        while not self._left.wait(_POLL_S):
            index = self._failed()
            if index is not None and not self._left.wait(_GRACE_S):
                _log.error("rank_failed", rank=index + 1, exit_status=self._processes[index].returncode)
                self._reporter.send(self._reason(index))
                os._exit(1)  # the main thread hangs in a collective operation

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for reader in self._readers:
            os.close(reader)
        leave()


def environment(number: int, ranks: int, port: int, settings: TrainingSettings) -> dict[str, str]:
    """Return the variables by which PyTorch and accelerate know a rank."""
    values = (number, number, ranks, ranks, "127.0.0.1", port)
    variables = dict(zip(_VARIABLES, map(str, values), strict=True))
    if settings.parallelism == "fsdp":
        variables |= dict.fromkeys(_FSDP_VARIABLES, "true")
    return variables


def join() -> None:
    """Take the GPU that is this rank's.

    Raises:
        JobFailed: ``not_enough_gpus``.
    """
    import torch

    if not torch.cuda.is_available():
        return
    check_gpus(world_size())
    torch.cuda.set_device(rank())


def check_gpus(ranks: int) -> None:
    """Check that there is a GPU for each rank.

    Raises:
        JobFailed: ``not_enough_gpus``.
    """
    import torch

    if (seen := torch.cuda.device_count()) < ranks:
        raise JobFailed(
            f"nproc_per_node is {ranks}, and this trainer sees {seen} GPUs", code="not_enough_gpus"
        )


def leave() -> None:
    """Be a process on its own again."""
    import torch
    from accelerate.state import AcceleratorState, GradientState

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    for name in (*_VARIABLES, *_FSDP_VARIABLES):
        os.environ.pop(name, None)


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def agreed(value: Any) -> Any:
    """Return rank 0's ``value`` on every rank; all have to ask."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    values = [value]
    broadcast_object_list(values)
    return values[0]


def together() -> None:
    """Wait until all ranks are here."""
    if world_size() > 1:
        from accelerate.state import PartialState

        PartialState().wait_for_everyone()


def ignore_stop_signals() -> None:
    """Leave it to rank 0 to be told to stop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

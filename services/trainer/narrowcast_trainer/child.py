"""One job's process as its parent holds it: started, listened to, never left behind."""

import contextlib
import json
import logging
import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from narrowcast import logs
from narrowcast.errors import Unavailable
from narrowcast_trainer.protocol import EVENT, Event, Order
from narrowcast_trainer.trackers import tracker_environment

_log = logs.get(__name__)
_READ_BYTES = 64 * 1024
_EXCEPTION_LINE = re.compile(rb"^([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt))(?::|$)")
_OURS = "narrowcast"


class JobProcess:
    """A context manager: on leaving it, the process and everything it started is dead."""

    def __init__(self, order: Order, threads: int) -> None:
        self.last_exception: str | None = None
        """Type of the last exception that its standard error showed, without its text."""
        self._buffers = {"events": b"", "output": b""}
        self._selector = selectors.DefaultSelector()
        reader, writer = os.pipe()
        self._reader = reader
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", order.program),
                    *("--events", str(writer), "--parent", str(os.getpid())),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writer,),
                start_new_session=True,
                env=training_environment(threads, order.ranks)
                | tracker_environment(order.settings.report_to),
            )
        except OSError as error:
            os.close(reader)
            raise Unavailable(
                f"the {order.work} process could not be started: this machine has too little memory, or too"
                " many processes or open files",
                code=f"{order.work}_not_started",
            ) from error
        finally:
            os.close(writer)
        self._selector.register(reader, selectors.EVENT_READ, "events")
        if self._process.stdout is not None:
            self._selector.register(self._process.stdout, selectors.EVENT_READ, "output")
        if self._process.stdin is not None:
            # A process that is dead already shows that by its exit status.
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                stdin.write(order.model_dump_json().encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.signal(signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        os.close(self._reader)
        if self._process.stdout is not None:
            self._process.stdout.close()

    @property
    def pid(self) -> int:
        """Process id, which is also its group's."""
        return self._process.pid

    def exit_status(self) -> int | None:
        """Return the exit status (negative: the signal that ended it), or None while it runs."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal: SIGKILL to all it started, any other to the process itself."""
        if self._process.returncode is not None and number is not signal.SIGKILL:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                self._process.send_signal(number)

    def events(self, timeout_s: float) -> Iterator[Event]:
        """Yield what arrives within ``timeout_s`` seconds; what it prints is logged on the way."""
        for key, _ in self._selector.select(timeout_s):
            chunk = os.read(key.fd, _READ_BYTES)
            if not chunk:
                self._selector.unregister(key.fileobj)
            *lines, self._buffers[key.data] = (self._buffers[key.data] + chunk).split(b"\n")
            for line in lines:
                if key.data == "output":
                    self._take_output(line)
                elif (event := _parsed(line)) is not None:
                    yield event

    @property
    def silent(self) -> bool:
        """Whether both pipes are closed and read to their end."""
        return not self._selector.get_map()

    def _take_output(self, line: bytes) -> None:
        # Libraries may print anything, a row included. Only our own log lines pass, whose text
        # is written to be shown, and of a traceback the type that it ends with.
        if match := _EXCEPTION_LINE.match(line):
            self.last_exception = match[1].decode()
            return
        try:
            record = json.loads(line)
        except ValueError:
            return
        if isinstance(record, dict) and str(record.get("logger", "")).startswith(_OURS):
            fields = {f"process_{key}": value for key, value in record.items() if key not in _LOG_FIELDS}
            level = logging.getLevelNamesMapping().get(str(record.get("level", "")).upper(), logging.INFO)
            _log.log(level, str(record.get("event")), **fields)


_LOG_FIELDS = {"event", "level", "logger", "service", "timestamp", "job_id"}


_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The second is the older name, which unsloth heeds only where the first is not set."""


def _allocator() -> dict[str, str]:
    """Let PyTorch's GPU memory grow in place.

    Batches differ in length, so that freed blocks fit no later request: on an H100 the engine peft's reserved
    memory rose from 11.9 to 17.4 GiB in five steps, that of unsloth, which sets this itself, from 9.0 to 9.2.
    Not under WSL, where it makes the driver fail.
    """
    if "microsoft" in os.uname().release.lower() or any(name in os.environ for name in _ALLOCATOR):
        return {}
    return {_ALLOCATOR[0]: "expandable_segments:True"}


def _parsed(line: bytes) -> Event | None:
    try:
        return EVENT.validate_json(line)
    except ValidationError:
        # Not quoted: nothing but our own reporter writes there, so whatever this is, it is not ours.
        _log.warning("process_event_not_understood", size=len(line))
        return None


def training_environment(threads: int, ranks: int = 1) -> dict[str, str]:
    """Return the variables of a training process: offline, a GPU for each rank, a share of the threads."""
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
    }
    # Of those that a process sees the Trainer would take all, each for a micro-batch of its own: batch_size
    # would be a multiple of what was asked for. Numbered as nvidia-smi does: the estimates are for its first.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(ranks))))
    return {
        **os.environ,
        **offline,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(visible.split(",")[:ranks]),
        **_allocator(),
        "OMP_NUM_THREADS": str(max(1, threads // ranks)),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }

"""Exports whose disk fills while llama.cpp's programs write. Real file systems, a few MiB large."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from narrowcast.jobs.records import JobStatus
from narrowcast_trainer.export.gguf import LlamaCpp

from ..conftest import TOY, Worker
from ..small_disks import fill, mounting, seen_by
from .conftest import Exporting
from .test_exports import wait_for_step

pytestmark = pytest.mark.faults

_QUANTIZE = """
import sys
from pathlib import Path
from narrowcast.errors import Unavailable
from narrowcast_trainer.export.gguf import LlamaCpp

llama, model, small = map(Path, sys.argv[1:])
try:
    LlamaCpp(llama).quantize(model, small / "model.gguf", "q8_0", 1)
except Unavailable as error:
    print(error.code, error.message)
"""


def test_a_disk_that_fills_while_it_converts_is_waited_for(
    exporting: Exporting, llama_cpp: Path, start_worker: Callable[..., Worker]
) -> None:
    work_dir = exporting.settings.trainer.work_dir
    job = exporting.submit(format="gguf", quantization="q8_0")
    worker = start_worker(within=mounting(work_dir, 128 * 1024))
    wait_for_step(exporting, job, "converting")
    ballast = seen_by(worker.process.pid, work_dir) / "ballast"
    fill(ballast)
    away = "something it needs is away; the job is queued: the trainer's work_dir is full"
    exporting.desk.wait_for_event(job.id, away)
    ballast.unlink()
    ended = exporting.desk.ended(job.id)
    assert ended.status is JobStatus.SUCCEEDED, ended.error
    assert ended.attempt == 2
    assert set(ended.result["files"]) == {"model-q8_0.gguf", "Modelfile"}


def test_a_disk_that_fills_while_it_quantises(llama_cpp: Path, models_dir: Path, tmp_path: Path) -> None:
    model, small = tmp_path / "model.gguf", tmp_path / "small"
    LlamaCpp(llama_cpp).convert(models_dir / TOY, model)
    paths = map(str, (llama_cpp, model, small))
    command = [*mounting(small, 1024), sys.executable, "-c", _QUANTIZE, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "disk_full the trainer's work_dir is full: free some space\n"

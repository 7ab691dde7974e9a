"""What this node is: its GPU, its base models. Told to the gateway, which sees neither."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from narrowcast import logs
from narrowcast.estimates.history import EstimateFacts, NodeFacts
from narrowcast.estimates.shapes import Engine
from narrowcast_trainer.batches import MICRO_BATCH_TOKENS
from narrowcast_trainer.settings import TrainingSettings

_log = logs.get(__name__)
_MIB: Final = 1024**2
_QUERY_S: Final = 20.0
"""A GPU that has not been used takes seconds to answer."""
_PYTORCH_S: Final = 120.0
_ASK_PYTORCH: Final = """
import json, torch
seen = torch.cuda.is_available() and torch.cuda.get_device_properties(0)
print(json.dumps({"name": seen.name, "memory": seen.total_memory} if seen else None))
"""
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_CPUINFO: Final = Path("/proc/cpuinfo")
_BF16_FLAGS: Final = {"avx512_bf16", "amx_bf16"}


def node_facts(settings: TrainingSettings) -> NodeFacts:
    """Return what this node is. PyTorch is not asked: it stays out of the worker's process."""
    gpu = first_gpu()
    if gpu is None:
        return cpu_facts(settings)
    name, memory = gpu
    engine: Engine = "peft" if find_spec("unsloth") is None else "unsloth"
    return gpu_facts(name, int(memory * settings.gpu_memory_share), settings, engine)


def gpu_facts(name: str, memory_bytes: int, settings: TrainingSettings, engine: Engine) -> NodeFacts:
    """Return what a node with such GPUs, and ``engine`` installed, is."""
    sharded = settings.parallelism == "fsdp"
    return NodeFacts(
        name=name,
        device="cuda",
        memory_bytes=memory_bytes,
        engine="peft" if sharded else engine,
        quantization="none" if sharded else "nf4",
        micro_batch_tokens=settings.micro_batch_tokens or MICRO_BATCH_TOKENS["cuda"],
        gpus=settings.nproc_per_node,
        parallelism=settings.parallelism,
    )


def cpu_facts(settings: TrainingSettings) -> NodeFacts:
    """Return what this node is without its GPU."""
    return NodeFacts(
        name="cpu",
        device="cpu",
        memory_bytes=_process_memory(),
        engine="peft",
        quantization="none",
        micro_batch_tokens=settings.micro_batch_tokens or MICRO_BATCH_TOKENS["cpu"],
        cores=settings.threads or len(os.sched_getaffinity(0)),
        bf16=_multiplies_bf16(),
    )


def first_gpu() -> tuple[str, int] | None:
    """Return name and memory in bytes of the GPU that a training would use, or None.

    A part of a GPU (MIG) has no number that nvidia-smi would give here: PyTorch is asked then.
    """
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:  # which nvidia-smi does not heed by itself
        command.append(f"--id={visible.partition(',')[0]}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_QUERY_S).stdout
        name, memory = answer.splitlines()[0].rsplit(",", 1)
        return name.strip(), int(memory) * _MIB
    except FileNotFoundError:
        return None  # no driver
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return _gpu_that_pytorch_sees()


def _gpu_that_pytorch_sees() -> tuple[str, int] | None:
    """Ask in a process apart, which has let go of the GPU when it ends."""
    environment = os.environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    command = [sys.executable, "-c", _ASK_PYTORCH]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_PYTORCH_S, env=environment
        ).stdout
        found = json.loads(answer)
        return None if found is None else (str(found["name"]), int(found["memory"]))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        _log.warning("gpu_not_read", exc_info=error)
        return None


def base_configs(models_dir: Path) -> dict[str, dict[str, Any]]:
    """Return the ``config.json`` of every base model of this node, by name."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(models_dir.glob("[!.]*/config.json")):
        try:
            found[path.parent.name] = json.loads(path.read_text())
        except (OSError, ValueError):
            _log.warning("base_config_not_read", base=path.parent.name)
    return found


def report_node(facts: EstimateFacts, settings: TrainingSettings) -> None:
    """Tell the gateway what this node is and has.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    facts.report_node(node_facts(settings), base_configs(settings.models_dir))


def _process_memory() -> int:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # ``max``: no limit
        return physical


def _multiplies_bf16() -> bool:
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return bool(_BF16_FLAGS & set(flags.split()))

"""Settings of the trainer."""

import tempfile
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, Field, HttpUrl, SecretStr, model_validator

from narrowcast.estimates.shapes import Parallelism
from narrowcast.settings import Settings
from narrowcast_trainer.trackers import TrackerName

MOST_GPUS: Final = 64
"""Of one node."""


class TrainingSettings(BaseModel):
    """How this node trains."""

    models_dir: Path = Path("models")
    """Base models lie at ``models_dir/<name>``, each a folder in Hugging Face's format."""
    work_dir: Path = Path(tempfile.gettempdir()) / "narrowcast-trainer"
    """Scratch: one folder a job while it runs. Nothing in it outlives the job."""
    max_lora_rank: int = Field(64, ge=1)
    """The inference servers' ``--max-lora-rank``; a job above it could never be served."""
    checkpoint_every_s: float = Field(300.0, gt=0)
    """Work that a lost process may cost. A checkpoint of an 8B base at r=64 is about 2 GB."""
    keep_checkpoints: int = Field(2, ge=1)
    """Complete ones kept: the newest, and those to fall back to if it turns out damaged."""
    storage_patience_s: float = Field(300.0, ge=0)
    """How long a job waits for an object store that is away, before it starts and with its adapter in
    hand. After that the attempt ends, and the next one resumes from the newest checkpoint."""
    stop_grace_s: float = Field(90.0, gt=0)
    """From the request to stop until the process is killed: one step, one checkpoint upload."""
    nproc_per_node: int = Field(1, ge=1, le=MOST_GPUS)
    """GPUs of this node that one training uses, the first ones of ``CUDA_VISIBLE_DEVICES``; without a GPU,
    processes. As in torchrun; fewer are used where they could not share the job's batches evenly."""
    parallelism: Parallelism = "ddp"
    """How several GPUs share a training. ``ddp``: each holds the base. ``fsdp``: each holds a part of it,
    unquantised, for a base that one GPU cannot hold; always with the engine peft."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of a training, all its processes together; None takes every core this process may use."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """Tokens, padding included, in one forward pass; None: 8192 on CUDA, 1536 on a CPU."""
    gpu_memory_share: float = Field(1.0, gt=0, le=1)
    """Of the GPU's memory, what training may count on; the rest is a server's that runs beside it."""
    gpu_lease_urls: tuple[HttpUrl, ...] = ()
    """Inference servers with ``gpu_sharing`` on this trainer's GPU: they sleep while a job trains."""
    gpu_lease_ttl_s: float = Field(30.0, gt=0, le=600)
    """A server that does not hear from its trainer for this long wakes up."""
    gpu_lease_patience_s: float = Field(900.0, ge=0)
    """A server that does not answer for this long before a job is down, not starting: the job goes on."""
    llama_cpp_dir: Path = Path(".local/llama.cpp")
    """Its converters and ``bin/llama-quantize``, for exports; ``make llama.cpp`` puts them there."""
    report_to: tuple[TrackerName, ...] = ()
    """Trackers that this site has; every training is reported to them, for no job to choose or refuse."""
    heartbeat_file: Path = Path(tempfile.gettempdir()) / "narrowcast-trainer.heartbeat"
    """Touched while the worker idles and whenever its training moves; a liveness probe reads its age."""

    @model_validator(mode="after")
    def _there_is_something_to_share(self) -> Self:
        if self.parallelism == "fsdp" and self.nproc_per_node == 1:
            raise ValueError("parallelism fsdp shares a base among GPUs: nproc_per_node must be above 1")
        return self


class HubSettings(BaseModel):
    """The Hugging Face hub that exports may be pushed to (``HF_ENDPOINT`` names another one)."""

    token: SecretStr | None = None
    """May write there. None: no export leaves the site."""
    owners: tuple[str, ...] = ()
    """Users and organisations whose repositories may be pushed to; none: whichever the token may write."""
    allow_public: bool = False
    """Whether a repository that everybody can read may be created, or pushed to."""


class TrainerSettings(Settings):
    """Everything the worker and its jobs' processes need."""

    trainer: TrainingSettings = TrainingSettings()
    hub: HubSettings = HubSettings()

"""What the inference service is told, and the defaults that suit a small CPU machine."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, field_validator, model_validator

from narrowcast.adapters import VLLM_RANKS, base_fingerprint
from narrowcast.settings import CommonSettings

_GIB = 1024**3


class CpuSettings(BaseModel):
    """Applied only when vLLM runs on a CPU."""

    dtype: str = "bfloat16"
    kv_cache_gib: float = Field(0.25, gt=0)
    """SmolLM2-135M keeps about 11,000 tokens in it."""
    threads: int = Field(default_factory=lambda: max(1, (os.cpu_count() or 1) - 1), ge=1)
    """Of the engine. One core is left to the web server's process and to what else runs."""


class InferenceSection(BaseModel):
    """``NARROWCAST_INFERENCE__…``."""

    base_model: str = Field(min_length=1)
    """Name under which the base model is served, e.g. ``smollm2-135m-instruct``."""
    base_model_path: Path
    """Folder with the base model's ``config.json``, tokenizer and safetensors."""
    base_fingerprint: str = ""
    """Of the folder above. The launcher computes it once and hands it to vLLM's processes."""
    accepted_fingerprints: tuple[str, ...] = ()
    """Further bases whose adapters fit."""
    stop_token_ids: tuple[int, ...] = ()
    """At which the base ends a turn. The launcher reads them from the folder, for whoever asks."""
    special_token_ids: tuple[int, ...] = ()
    """Those that are no text, likewise."""
    context_length: int | None = None
    """Tokens that the base itself could read, likewise."""
    trained_base_path: Path | None = None
    """Folder of the 16-bit base that jobs train on, if what is served is a quantised copy of it:
    its adapters fit."""
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    """Share of the GPU's memory that vLLM takes; None leaves it to vLLM. A CPU has none."""
    quantization: str | None = None
    """What vLLM makes of 16-bit weights as it loads them, e.g. ``fp8``; None serves them as they are."""
    host: str = "127.0.0.1"
    """Only the gateway may reach it: vLLM's own key protects no more than some of its routes."""
    port: int = Field(8001, ge=1, le=65535)
    cache_dir: Path
    cache_max_gib: float = Field(20.0, gt=0)
    """Adapters above this are removed, least recently used first. More may lie there while all are used."""
    cache_idle_s: float = Field(60.0, ge=0)
    """An adapter is not removed within so many seconds of its last request."""
    cache_check_s: float = Field(600.0, gt=0)
    """So often it is looked for adapters that have been deleted from the object store."""
    cache_min_free_mib: int = Field(256, ge=0)
    """An adapter is not fetched if less than this would stay free on the disk."""
    resolve_timeout_s: float = Field(120.0, gt=0)
    """A request waits no longer than this for its adapter; the download goes on for the next one."""
    max_lora_rank: int = 64
    """Memory and time on the CPU grow with it, whatever rank an adapter has."""
    max_loras: int = Field(4, ge=1)
    """Adapters in one batch."""
    max_cpu_loras: int = Field(16, ge=1)
    """Adapters in memory: the working set should fit, reading one again takes far longer than a token."""
    max_model_len: int = Field(2048, ge=16)
    """Tokens of prompt and answer together."""
    max_num_seqs: int | None = Field(None, ge=1)
    """Requests in one batch; None leaves it to vLLM on a GPU and means 8 on a CPU."""
    max_num_batched_tokens: int | None = Field(None, ge=16)
    """Tokens computed in one step; None leaves it to vLLM."""
    shutdown_timeout_s: int = Field(60, ge=0)
    """Requests in flight at SIGTERM get this long to finish."""
    gpu_sharing: bool = False
    """A trainer uses the same GPU: vLLM sleeps while a job trains (:mod:`.gpu_sharing`)."""
    gpu_drain_s: float = Field(60.0, ge=0)
    """Requests in flight get this long to end when a job wants the GPU; what is left is cut off."""
    extra_args: tuple[str, ...] = ()
    """Passed to vLLM as they are, last; a JSON list in the environment."""
    cpu: CpuSettings = CpuSettings()

    @field_validator("max_lora_rank")
    @classmethod
    def _known_to_vllm(cls, rank: int) -> int:
        if rank not in VLLM_RANKS:
            raise ValueError(f"vLLM takes a max_lora_rank of {', '.join(map(str, VLLM_RANKS))}, not {rank}")
        return rank

    @field_validator("base_model_path", "trained_base_path", "cache_dir")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        # vLLM keys its caches by an adapter's path: it must not depend on who started it where.
        return None if path is None else path.expanduser().resolve()

    @model_validator(mode="after")
    def _working_set_fits(self) -> Self:
        if self.max_cpu_loras < self.max_loras:
            raise ValueError("max_cpu_loras is below max_loras")
        return self

    @property
    def cpu_kv_cache_bytes(self) -> int:
        """Size of the KV cache on a CPU."""
        return int(self.cpu.kv_cache_gib * _GIB)

    @property
    def cache_max_bytes(self) -> int:
        """Limit of all adapters in the cache."""
        return int(self.cache_max_gib * _GIB)

    @property
    def fingerprints(self) -> frozenset[str]:
        """Every base whose adapters are served."""
        return frozenset(filter(None, (self.base_fingerprint, *self.accepted_fingerprints)))


class InferenceSettings(CommonSettings):
    """Settings of the inference service."""

    inference: InferenceSection


@lru_cache(maxsize=1)
def settings_from_environment() -> InferenceSettings:
    """Return the settings of this process."""
    settings = InferenceSettings()
    if not settings.inference.base_fingerprint:
        settings.inference.base_fingerprint = base_fingerprint(settings.inference.base_model_path)
    return settings

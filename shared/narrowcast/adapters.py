"""LoRA adapters: where they lie, what their manifest says, what vLLM would refuse."""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, JsonValue

from narrowcast import ids
from narrowcast.artifacts import Manifest
from narrowcast.errors import InvalidInput
from narrowcast.storage import Bucket
from narrowcast.sweeps import Trial

ADAPTERS = "adapters/"
"""Below which all of them lie in the models bucket."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM 0.32 accepts as ``--max-lora-rank``."""
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
    "lora_bias": "a bias in the LoRA layers",
    "modules_to_save": "training of whole modules",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "replication of layers",
    "trainable_token_indices": "training of single tokens",
    "target_parameters": "LoRA on the parameters of experts",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
"""Settings of PEFT's with which, set to anything, vLLM 0.32 refuses an adapter: for the setting itself
(its ``PEFTHelper``), or for tensors that are there because of it, experts' with most models."""
_SERVABLE_INITS = {True, False, "gaussian", "eva"}
_EMBEDDINGS = {"embed_tokens", "lm_head"}
"""Layers for which it takes an adapter in its Llama and Qwen3, but not in its Mistral, Qwen2 and Gemma."""
_SAMPLES_PER_SHARD = 16
_SAMPLE_BYTES = 64 * 1024


class BaseModelRef(BaseModel):
    """The model an adapter was trained on."""

    name: str
    fingerprint: str


class PromptRef(BaseModel):
    """The prompt an adapter was trained with."""

    template: str
    hash: str
    default_instruction: str
    """The training set's commonest instruction, for requests that bring none."""


class AdapterManifest(Manifest):
    """A published adapter."""

    base: BaseModelRef
    prompt: PromptRef
    rank: int
    engine: str
    quantization: str | None = None
    """How the base was stored while the adapter was trained: ``nf4``, ``int8`` or ``none``; None if
    that was not written down."""
    dataset: str
    job: str
    metrics: dict[str, float] = Field(default_factory=dict)
    hyperparameters: dict[str, JsonValue] = Field(default_factory=dict)
    """Those it was trained with; of a sweep, its best trial's."""
    trials: list[Trial] = Field(default_factory=list)
    """Of the sweep that it is the best of."""


def adapter_prefix(tenant: str, adapter_id: str) -> str:
    """Return the key prefix of an adapter in the models bucket."""
    return f"{ADAPTERS}{tenant}/{adapter_id}/"


def published_adapters(models: Bucket) -> set[tuple[str, str]]:
    """Return tenant and id of every adapter in the models bucket, halves of adapters included.

    Raises:
        Unavailable: the object store does not answer, or has no such bucket.
    """
    return {
        (tenant, adapter_id)
        for tenant in models.folders(ADAPTERS)
        for adapter_id in models.folders(f"{ADAPTERS}{tenant}/")
    }


def checkpoint_prefix(tenant: str, job_id: str, step: int | None = None) -> str:
    """Return the key prefix of a job's checkpoints, or of one of them."""
    prefix = f"checkpoints/{tenant}/{job_id}/"
    return prefix if step is None else f"{prefix}step-{step:08d}/"


def serving_name(tenant: str, adapter_id: str) -> str:
    """Return the model name that vLLM sees.

    It carries the tenant, so that whoever maps a request to it can only ever reach the
    adapters of the tenant whose key came with the request.
    """
    return f"{tenant}/{adapter_id}"


def parse_serving_name(name: str) -> tuple[str, str] | None:
    """Return ``(tenant, adapter id)``, or None if ``name`` cannot be one of ours."""
    tenant, slash, adapter_id = name.partition("/")
    if slash and ids.TENANT.match(tenant) and ids.ADAPTER_ID.match(adapter_id):
        return tenant, adapter_id
    return None


def base_fingerprint(model_dir: Path) -> str:
    """Return a digest that tells two base models apart, in well under a second for 16 GB.

    SHA-256 over, for every ``*.safetensors`` shard in name order, its header (tensor names,
    types, shapes) and 16 evenly spaced samples of 64 KiB of its data. Two fine-tunes of one
    model share headers, so the samples matter; a full digest would read the whole disk. Shard
    names are left out: a re-saved identical file keeps its fingerprint.

    Raises:
        InvalidInput: the folder holds no safetensors file.
    """
    shards = sorted(model_dir.glob("*.safetensors"))
    if not shards:
        raise InvalidInput(
            f"no safetensors file in base model folder {model_dir.name}", code="invalid_base_model"
        )
    digest = hashlib.sha256()
    for shard in shards:
        with shard.open("rb") as file:
            (header_length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(header_length))
            header.pop("__metadata__", None)
            digest.update(json.dumps(header, sort_keys=True).encode())
            start, size = 8 + header_length, shard.stat().st_size
            for sample in range(_SAMPLES_PER_SHARD):
                file.seek(start + (size - start) * sample // _SAMPLES_PER_SHARD)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def why_unservable(setting: str, value: Any) -> str | None:
    """Return what of PEFT's setting ``setting`` vLLM 0.32 does not serve; None if it is not for this one."""
    if setting in _UNSUPPORTED and value:
        return f"{_UNSUPPORTED[setting]} is not supported"
    if setting == "bias" and value != "none":
        return "bias must be none"
    if setting == "peft_type" and value != "LORA":
        return "it is not LoRA"
    if setting == "init_lora_weights" and not _is_servable_init(value):
        return "this initialisation changes the base weights and was not converted"
    if setting == "target_modules" and _names_embeddings(value):
        return "embeddings and the output layer are not supported for every base"
    return None


def _is_servable_init(value: Any) -> bool:
    return isinstance(value, str | bool) and value in _SERVABLE_INITS


def _names_embeddings(modules: Any) -> bool:
    names = [modules] if isinstance(modules, str) else modules or []
    return not _EMBEDDINGS.isdisjoint(name.rpartition(".")[2] for name in names)


def unservable(setting: str, reason: str) -> InvalidInput:
    """Return the error that says so."""
    return InvalidInput(
        f"vLLM does not serve such an adapter: {reason}", code="unservable_adapter", param=setting
    )


def check_servable(config: Mapping[str, Any], max_rank: int) -> None:
    """Check a PEFT ``adapter_config.json`` against what vLLM 0.32 serves.

    Called when a job is submitted and again before an adapter is published: vLLM itself says
    no only at the first request, after the GPU hours.

    Raises:
        InvalidInput: code ``unservable_adapter``, naming the setting.
    """
    for setting, value in config.items():
        if reason := why_unservable(setting, value):
            raise unservable(setting, reason)
    ranks = [int(config["r"]), *(int(r) for r in (config.get("rank_pattern") or {}).values())]
    if max(ranks) > max_rank:
        raise unservable("rank", f"rank {max(ranks)} is above the platform's maximum of {max_rank}")
    if min(ranks) < 1:
        raise unservable("rank", f"rank {min(ranks)} is below 1")

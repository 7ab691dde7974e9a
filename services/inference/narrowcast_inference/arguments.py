"""vLLM's command line and environment, from our settings."""

import json
import os

from narrowcast.prompts import CHAT_TEMPLATE_KWARGS
from narrowcast_inference.settings import InferenceSection

PLUGIN = "narrowcast_s3_resolver"
_CPU_MAX_NUM_SEQS = 8
_GENERATION = {
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "max_new_tokens": None,
}
"""Over the base's own ``generation_config.json``. Its penalties (Qwen2.5: 1.05) count the prompt's words too,
and a report repeats its impression's; nor is it for a base to say how long a report may be."""
_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_PLAIN_PINNED_MEMORY = "pinned_max_cached_size_mb:16"
"""For the sleep. vLLM pins host memory for each piece of the model; PyTorch would round pieces up to powers
of two, 27 GiB for the 15 of a Qwen2.5-7B, and keep them once the model is awake. Larger ones not so."""
MIDDLEWARE = "narrowcast_inference.status.AdapterStatusMiddleware"
GPU_MIDDLEWARE = "narrowcast_inference.gpu_sharing.GpuSharingMiddleware"


def vllm_environment(section: InferenceSection, logging_config: str) -> dict[str, str]:
    """Return the variables that must be set before vllm is imported."""
    context = section.context_length
    environment = {
        # As the trainer counts, and NVML. CUDA's own order, the fastest first, would let card 0 be another
        # card here than there, and vLLM look up one card's capability and compute on another.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        # vLLM asks resolvers only if adapters may change at run time.
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_PLUGINS": PLUGIN,
        "VLLM_LOGGING_CONFIG_PATH": logging_config,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        # Read by our resolver in the serving process.
        "NARROWCAST_INFERENCE__BASE_FINGERPRINT": section.base_fingerprint,
        "NARROWCAST_INFERENCE__ACCEPTED_FINGERPRINTS": json.dumps(section.accepted_fingerprints),
        "NARROWCAST_INFERENCE__STOP_TOKEN_IDS": json.dumps(section.stop_token_ids),
        "NARROWCAST_INFERENCE__SPECIAL_TOKEN_IDS": json.dumps(section.special_token_ids),
    }
    if context is not None:
        environment["NARROWCAST_INFERENCE__CONTEXT_LENGTH"] = str(context)
    if section.gpu_sharing and not any(name in os.environ for name in _ALLOCATOR_SETTINGS):
        environment["PYTORCH_ALLOC_CONF"] = _PLAIN_PINNED_MEMORY
    return environment


def cpu_environment(section: InferenceSection) -> dict[str, str]:
    """Return the further variables for a CPU, read when the engine starts."""
    return {
        # Keeps the worker inside the engine's process: one process less to import torch and vllm
        # in, which is a third of the start and 0.6 GB. vLLM's worker process exists to bind OpenMP
        # threads to cores; their number, which we set ourselves, is what matters here.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": str(section.cpu.threads),
    }


def vllm_arguments(section: InferenceSection, *, on_cpu: bool) -> list[str]:
    """Return what vLLM's API server is started with."""
    arguments = [
        f"--model={section.base_model_path}",
        f"--served-model-name={section.base_model}",
        f"--host={section.host}",
        f"--port={section.port}",
        f"--max-model-len={section.max_model_len}",
        "--enable-lora",
        f"--max-lora-rank={section.max_lora_rank}",
        f"--max-loras={section.max_loras}",
        f"--max-cpu-loras={section.max_cpu_loras}",
        f"--shutdown-timeout={section.shutdown_timeout_s}",
        # Of chats and of previews alike: prompts as adapters were trained with.
        f"--default-chat-template-kwargs={json.dumps(CHAT_TEMPLATE_KWARGS)}",
        f"--override-generation-config={json.dumps(_GENERATION)}",
        f"--middleware={MIDDLEWARE}",
        # Prompts are about patients; requests are logged by the gateway, without them.
        "--no-enable-log-requests",
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
    ]
    if section.gpu_sharing:
        # After the other one, which makes it the outer one.
        arguments.append(f"--middleware={GPU_MIDDLEWARE}")
        if not on_cpu:
            # vLLM refuses the flag on a CPU; there falling asleep is all but freeing memory.
            arguments.append("--enable-sleep-mode")
    if section.max_num_batched_tokens is not None:
        arguments.append(f"--max-num-batched-tokens={section.max_num_batched_tokens}")
    max_num_seqs = section.max_num_seqs or (_CPU_MAX_NUM_SEQS if on_cpu else None)
    if max_num_seqs is not None:
        arguments.append(f"--max-num-seqs={max_num_seqs}")
    if section.quantization:
        arguments.append(f"--quantization={section.quantization}")
    if section.gpu_memory_utilization is not None and not on_cpu:
        arguments.append(f"--gpu-memory-utilization={section.gpu_memory_utilization}")
    if on_cpu:
        arguments += [
            f"--dtype={section.cpu.dtype}",
            f"--kv-cache-memory-bytes={section.cpu_kv_cache_bytes}",
            # LoRA turns compilation off on a CPU anyway; saying so skips what prepares it.
            "--enforce-eager",
        ]
    return [*arguments, *section.extra_args]

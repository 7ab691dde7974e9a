"""Base models and adapters by plain Transformers and PEFT."""

from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, set_seed

from narrowcast.errors import JobFailed
from narrowcast.training import Hyperparameters
from narrowcast_trainer.engines.precision import Precision, Quantization, bitsandbytes_config

DeviceMap = Literal["auto"] | dict[str, int] | None


def this_gpu() -> DeviceMap:
    """Return the map that lays all of a base on this rank's GPU; None where there is none."""
    return {"": torch.cuda.current_device()} if torch.cuda.is_available() else None


def load_base(
    folder: Path, precision: Precision, quantization: Quantization, device_map: DeviceMap = None
) -> Any:
    """Load a base model, frozen or not as the library leaves it.

    Args:
        folder: where it lies.
        precision: of the weights that are not quantised.
        quantization: of the others.
        device_map: as ``from_pretrained`` has it; None leaves an unquantised base on the CPU.

    Raises:
        JobFailed: ``invalid_base_model``.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=precision.base,
            quantization_config=bitsandbytes_config(quantization, precision),
            device_map=device_map,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise JobFailed(
            f"the base model {folder.name} cannot be loaded", code="invalid_base_model", param="model"
        ) from error


def lora_config(hyper: Hyperparameters) -> LoraConfig:
    """Return the adapter's shape; nothing in it that vLLM would refuse."""
    return LoraConfig(
        r=hyper.rank,
        lora_alpha=hyper.alpha,
        lora_dropout=hyper.dropout,
        target_modules=hyper.target_modules
        if isinstance(hyper.target_modules, str)
        else list(hyper.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )


def with_adapter(base: Any, hyper: Hyperparameters) -> Any:
    """Return the base, frozen, with an untrained adapter on it.

    Not by way of PEFT's ``prepare_model_for_kbit_training``: it makes float32 of all that is not
    quantised, embeddings, output layer and with them every activation between layers, which for an 8B
    base are 2 GiB of weights. The norms compute in float32 as they are.

    Args:
        base: from :func:`load_base`.
        hyper: the adapter's shape, and the seed that its A matrices are drawn from.

    Raises:
        JobFailed: ``unknown_target_modules``, the base has none of those asked for.
    """
    for module in base.modules():
        # bitsandbytes 0.50 lays 4-bit weights out anew for a CPU's bf16 instructions the first time that
        # a model in eval mode computes, a validation say. Its backward pass does not know that layout:
        # from then on every gradient below would be wrong. This switches it off.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    set_seed(hyper.seed)
    try:
        return get_peft_model(base, lora_config(hyper))
    except ValueError as error:
        raise JobFailed(
            "the base model has no such target_modules; all-linear fits every base",
            code="unknown_target_modules",
            param="target_modules",
        ) from error

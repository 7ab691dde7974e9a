"""Base models and adapters by plain Transformers and PEFT."""

from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, set_seed

from narrowcast.errors import JobFailed
from narrowcast.training import Hyperparameters
from narrowcast_trainer.engines.precision import Precision, Quantization, bitsandbytes_config


def load_base(folder: Path, precision: Precision, quantization: Quantization, *, spread: bool = False) -> Any:
    """Load a base model, frozen or not as the library leaves it.

    Args:
        folder: where it lies.
        precision: of the weights that are not quantised.
        quantization: of the others.
        spread: lay its layers over all GPUs.

    Raises:
        JobFailed: ``invalid_base_model``.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=precision.base,
            quantization_config=bitsandbytes_config(quantization, precision),
            device_map="auto" if spread else None,
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


def with_adapter(
    base: Any, hyper: Hyperparameters, quantization: Quantization, *, checkpointing: bool
) -> Any:
    """Return the base with an untrained adapter on it.

    Args:
        base: from :func:`load_base`.
        hyper: the adapter's shape, and the seed that its A matrices are drawn from.
        quantization: of the base.
        checkpointing: whether activations will be recomputed.

    Raises:
        JobFailed: ``unknown_target_modules``, the base has none of those asked for.
    """
    set_seed(hyper.seed)
    if quantization != "none":
        base = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            base,
            use_gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
    try:
        return get_peft_model(base, lora_config(hyper))
    except ValueError as error:
        raise JobFailed(
            "the base model has no such target_modules; all-linear fits every base",
            code="unknown_target_modules",
            param="target_modules",
        ) from error

"""Parameter counts against transformers and PEFT, on the meta device: no weights are needed."""

import json
from typing import Any

import pytest

from narrowcast.errors import InvalidInput
from narrowcast.estimates.architecture import read_architecture
from narrowcast_trainer import estimate_table

with (estimate_table.resources.files("narrowcast_trainer") / "estimate_bases.json").open() as _file:
    BASES: dict[str, dict[str, Any]] = {name: base["config"] for name, base in json.load(_file).items()}

# What the model cards and the checkpoints' indices say.
PUBLISHED = {
    "SmolLM2-135M": 134_515_008,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "T-lite 8B": 7_615_616_512,
    "Llama-3.1-8B": 8_030_261_248,
    "Qwen3-8B": 8_190_735_360,
    "Vikhr-Nemo-12B": 12_247_782_400,
    "Qwen2.5-14B": 14_770_033_664,
}
TINY = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 100,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama tied": {"model_type": "llama", "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral"},
    "qwen2 tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen3 with biases": {"model_type": "qwen3", "attention_bias": True},
    "qwen3 tied": {"model_type": "qwen3", "tie_word_embeddings": True},
}


def _built(config: dict[str, Any], rank: int) -> tuple[int, int]:
    """Return the parameters of the real modules: the base's, and LoRA's."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    rest = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **rest))
        total = sum(parameter.numel() for parameter in model.parameters())
        lora = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
        adapted = get_peft_model(model, lora)
    return total, adapted.num_parameters(only_trainable=True)


@pytest.mark.parametrize("name", BASES)
def test_common_bases_have_the_parameters_of_the_real_modules(name: str) -> None:
    found = read_architecture(BASES[name])
    assert (found.parameters, found.lora_parameters(64)) == _built(BASES[name], 64)
    assert found.parameters == PUBLISHED.get(name, found.parameters)


@pytest.mark.parametrize("name", VARIANTS)
def test_what_architectures_differ_in_is_counted(name: str) -> None:
    config = TINY | VARIANTS[name]
    found = read_architecture(config)
    assert (found.parameters, found.lora_parameters(8)) == _built(config, 8)


@pytest.mark.parametrize("model_type", ["gemma2", "mixtral", "qwen3_moe", "gpt2", None])
def test_an_unknown_architecture_is_refused_by_name(model_type: str | None) -> None:
    with pytest.raises(InvalidInput, match=str(model_type)) as caught:
        read_architecture(TINY | {"model_type": model_type})
    assert caught.value.code == "unsupported_architecture"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 10**200}, "hidden_size"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": None}, "num_attention_heads"),
        ({"num_attention_heads": 97, "num_key_value_heads": 1, "head_dim": None}, "num_attention_heads"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_key_value_heads": 8}, "num_key_value_heads"),
        ({"model_type": "mistral", "num_key_value_heads": None}, "num_key_value_heads"),
        ({"model_type": "qwen3", "head_dim": None}, "head_dim"),
    ],
)
def test_a_broken_config_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput, match=field) as caught:
        read_architecture(TINY | {"model_type": "llama"} | change)
    assert caught.value.code == "invalid_model_config"
    assert caught.value.param == field

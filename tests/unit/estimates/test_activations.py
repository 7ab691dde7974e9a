"""What autograd really keeps of a layer, counted with PyTorch's own hooks on a toy model."""

from typing import Any

import pytest

from narrowcast.estimates.activations import saved_per_token
from narrowcast.estimates.architecture import read_architecture

TOY: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 896,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
}
RANK, ROWS, LENGTH = 8, 2, 128


def _saved(layers: int, *, half: bool) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, parameters left out."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    dtype = torch.bfloat16 if half else torch.float32
    config = AutoConfig.for_model(**TOY, num_hidden_layers=layers)
    lora = LoraConfig(r=RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(AutoModelForCausalLM.from_config(config, dtype=dtype), lora)
    model.enable_input_require_grads()
    model.train()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    tokens = torch.randint(0, 128, (ROWS, LENGTH))
    watched = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with watched, torch.autocast("cpu", torch.bfloat16, enabled=half):
        model.base_model.model.model(input_ids=tokens, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("half", [True, False])
def test_a_layer_keeps_what_the_formula_says(half: bool) -> None:
    architecture = read_architecture(TOY | {"num_hidden_layers": 1})
    casts = architecture.lora_parameters(RANK) * 2 if half else 0  # LoRA's weights, cast by autocast
    one_layer = _saved(2, half=half) - _saved(1, half=half)
    assert one_layer == ROWS * LENGTH * saved_per_token(architecture, RANK, half=half) + casts

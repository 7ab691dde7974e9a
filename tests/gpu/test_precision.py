"""What the node computes in is what its hardware has."""

from pathlib import Path

import torch

from narrowcast_trainer.engines.models import load_base, this_gpu
from narrowcast_trainer.engines.precision import Precision, capability, quantization


def test_precision_of_this_gpu() -> None:
    node = capability()
    assert node.cuda == torch.cuda.get_device_capability()
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    assert Precision.of(node).autocast is (torch.bfloat16 if bf16 else torch.float16)
    assert quantization("auto", node) == "nf4"


def test_an_unquantised_base_lies_on_the_gpu(base_model: Path) -> None:
    """Left on the CPU, trying out an adapter of an 8B base takes minutes, which looks like a dead worker."""
    model = load_base(base_model, Precision.of(capability()), "none", this_gpu())
    assert model.device == torch.device("cuda", torch.cuda.current_device())

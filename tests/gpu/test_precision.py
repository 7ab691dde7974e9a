"""What the node computes in is what its hardware has."""

import torch

from narrowcast_trainer.engines.precision import Precision, capability, quantization


def test_precision_of_this_gpu() -> None:
    node = capability()
    assert node.cuda == torch.cuda.get_device_capability()
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    assert Precision.of(node).autocast is (torch.bfloat16 if bf16 else torch.float16)
    assert quantization("auto", node) == "nf4"

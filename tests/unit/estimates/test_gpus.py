"""What a GPU computes, by the name that nvidia-smi or PyTorch gives it."""

import pytest

from narrowcast.estimates.gpus import peak_flops

TERA = 10**12


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("Tesla T4", 65),
        ("NVIDIA A2", 18),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("Quadro RTX 8000", 130),
        ("NVIDIA RTX A6000", 155),
        ("NVIDIA RTX 6000 Ada Generation", 364),
        ("NVIDIA GeForce RTX 4070", 58),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 80),
        ("NVIDIA GeForce RTX 3060 Ti", 32),
        ("NVIDIA GeForce RTX 2080 SUPER", 42),
    ],
)
def test_whole_gpus(name: str, tflops: int) -> None:
    assert peak_flops(name) == tflops * TERA


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 989 / 7),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", 312 * 3 / 7),
        ("NVIDIA A30 MIG 2g.12gb", 165 / 2),
    ],
)
def test_a_part_of_one_computes_its_share(name: str, tflops: float) -> None:
    assert peak_flops(name) == pytest.approx(tflops * TERA)


@pytest.mark.parametrize(
    "name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "Imaginary 9000", "Imaginary MIG 1g.10gb"]
)
def test_what_is_not_known_is_not_guessed(name: str) -> None:
    assert peak_flops(name) is None

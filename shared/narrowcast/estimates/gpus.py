"""What GPUs can compute, by the names that ``nvidia-smi`` gives them."""

import re
from typing import Final

_TERA: Final = 10**12

# Dense 16-bit tensor-core operations with float32 accumulation, from NVIDIA's data sheets, in 10^12/s
# (consumer cards: half their figure for 16-bit accumulation). The first match counts, so longer names
# come first.
_TFLOPS: Final = (
    (r"B200|GB200", 2250),
    (r"H200|GH200|H100.*(HBM3|SXM)", 989),
    (r"H100|H800", 756),
    (r"H20\b", 148),
    (r"A100|A800", 312),
    (r"L40S", 362),
    (r"L40", 181),
    (r"L20\b", 119),
    (r"L4\b", 121),
    (r"A40\b", 150),
    (r"A30\b", 165),
    (r"A10G", 70),
    (r"A10\b", 125),
    (r"A16\b", 18),
    (r"A2\b", 18),
    (r"RTX PRO 6000 Blackwell", 503),
    (r"RTX 6000 Ada", 364),
    (r"RTX 5000 Ada", 261),
    (r"RTX 4500 Ada", 158),
    (r"RTX 4000 (SFF )?Ada", 82),
    (r"RTX 2000 Ada", 48),
    (r"RTX A6000", 155),
    (r"RTX A5000", 111),
    (r"RTX A4500", 95),
    (r"RTX A4000", 77),
    (r"RTX A2000", 32),
    (r"RTX 5090", 209),
    (r"RTX 5080", 113),
    (r"RTX 5070 Ti", 88),
    (r"RTX 5070", 62),
    (r"RTX 5060", 38),
    (r"RTX 4090", 165),
    (r"RTX 4080", 98),
    (r"RTX 4070 Ti", 80),
    (r"RTX 4070 SUPER", 71),
    (r"RTX 4070", 58),
    (r"RTX 4060 Ti", 44),
    (r"RTX 4060", 30),
    (r"RTX 3090", 71),
    (r"RTX 3080", 60),
    (r"RTX 3070", 41),
    (r"RTX 3060 Ti", 32),
    (r"RTX 3060", 26),
    (r"TITAN RTX|Quadro RTX [68]000", 130),
    (r"Quadro RTX 5000", 89),
    (r"RTX 2080 Ti", 54),
    (r"RTX 2080", 42),
    (r"RTX 2070", 31),
    (r"RTX 2060", 26),
    (r"V100", 112),
    (r"T4\b", 65),
)
_SLICES: Final = {"A30": 4}
"""Parts that MIG makes of a GPU; of all others seven."""


def peak_flops(name: str) -> float | None:
    """Return the floating-point operations a second of a GPU, or of a part of one (MIG), at most.

    None if it is not known: of a laptop's, which bears the name of a larger one, nor of what is not here.
    """
    if "Laptop" in name or "Max-Q" in name:
        return None
    whole = next((tflops * _TERA for pattern, tflops in _TFLOPS if re.search(pattern, name)), None)
    part = re.search(r"MIG (\d)g\.", name)
    if whole is None or part is None:
        return whole
    slices = next((count for gpu, count in _SLICES.items() if gpu in name), 7)
    return whole * int(part[1]) / slices

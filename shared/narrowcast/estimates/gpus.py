"""What GPUs can compute, by the names that ``nvidia-smi`` gives them."""

import re
from typing import Final

_TERA: Final = 10**12

# Dense 16-bit tensor-core operations with float32 accumulation, from NVIDIA's data sheets, in 10^12/s
# (consumer cards: half their figure for 16-bit accumulation). The first match counts, so longer names
# come first.
_TFLOPS: Final = (
    (r"H200|H100.*(HBM3|SXM)", 989),
    (r"H100|H800", 756),
    (r"A100|A800", 312),
    (r"L40S", 362),
    (r"L40", 181),
    (r"L4\b", 121),
    (r"A40\b", 150),
    (r"A30\b", 165),
    (r"A10G", 70),
    (r"A10\b", 125),
    (r"A16\b", 18),
    (r"RTX 6000 Ada", 364),
    (r"RTX A6000", 155),
    (r"RTX A5000", 111),
    (r"RTX A4000", 77),
    (r"RTX 5090", 209),
    (r"RTX 4090", 165),
    (r"RTX 4080", 98),
    (r"RTX 4070 Ti", 80),
    (r"RTX 4060 Ti", 44),
    (r"RTX 3090", 71),
    (r"RTX 3080", 60),
    (r"RTX 3060", 26),
    (r"RTX 2080 Ti", 54),
    (r"V100", 112),
    (r"T4\b", 65),
)


def peak_flops(name: str) -> float | None:
    """Return the floating-point operations a second of a GPU at most, or None if it is not known."""
    return next((tflops * _TERA for pattern, tflops in _TFLOPS if re.search(pattern, name)), None)

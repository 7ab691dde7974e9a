"""Our CPU kernel against plain arithmetic, and against vLLM's own."""

import pytest
import torch

pytest.importorskip("vllm")

from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from narrowcast_inference.cpu_lora import GroupedPunicaWrapper

IN, RANK, OUT, SLOTS = 24, 4, (16, 8), 3


def weights(dtype: torch.dtype) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    a = tuple(torch.randn(SLOTS, 1, RANK, IN).to(dtype) for _ in OUT)
    b = tuple(torch.randn(SLOTS, 1, width, RANK).to(dtype) for width in OUT)
    return a, b


def expected(x: torch.Tensor, slots: list[int]) -> torch.Tensor:
    a, b = weights(torch.float32)
    rows = []
    for row, slot in zip(x, slots, strict=True):
        parts = [b[i][slot, 0] @ (a[i][slot, 0] @ row) for i in range(len(OUT))]
        rows.append(torch.cat(parts) if slot >= 0 else torch.zeros(sum(OUT)))
    return torch.stack(rows)


def applied(kind: type[PunicaWrapperCPU], x: torch.Tensor, slots: list[int]) -> torch.Tensor:
    wrapper = kind(64, 8, "cpu")
    # Requests of one token each: adapter id s + 1 lies in slot s, 0 means none.
    ids = tuple(slot + 1 for slot in slots)
    mapping = LoRAMapping(ids, ids, is_prefill=True)
    wrapper.update_metadata(mapping, [1, 2, 3], SLOTS, 100)
    y = torch.zeros(len(slots), sum(OUT), dtype=x.dtype)
    a, b = weights(x.dtype)
    wrapper.add_lora_linear(y, x, a, b, 1.0, OUT)
    return y


@pytest.mark.parametrize("slots", [[0] * 5, [-1] * 5, [2, 2, -1, 0, 1], [-1, 0, -1, 0, 2]])
def test_each_token_gets_its_adapter_and_no_other(slots: list[int]) -> None:
    x = torch.randn(len(slots), IN)
    torch.testing.assert_close(applied(GroupedPunicaWrapper, x, slots), expected(x, slots))


def test_half_precision_is_as_good_as_vllms_own() -> None:
    slots = [0, 0, 1, 2, 1]
    x = torch.randn(len(slots), IN).to(torch.bfloat16)
    truth = expected(x.float(), slots)
    ours, theirs = (
        (applied(kind, x, slots).float() - truth).abs().max()
        for kind in (GroupedPunicaWrapper, PunicaWrapperCPU)
    )
    assert ours <= 2 * theirs


def test_vllms_own_kernel_still_mixes_the_last_adapter_into_the_base() -> None:
    """The reason we have ours; when this fails, vLLM has mended it and speed alone remains."""
    x = torch.randn(2, IN)
    base_row = applied(PunicaWrapperCPU, x, [-1, 0])[0]
    assert base_row.abs().max() > 0.1

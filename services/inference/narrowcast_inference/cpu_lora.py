"""LoRA on a CPU, one matrix product per adapter in the batch.

vLLM 0.32's own CPU kernel copies the adapter's weights once for every token, which makes a
prompt of a few hundred tokens take seconds; and where a batch mixes requests with and without
an adapter, it indexes the weights with the -1 that means "none" and so adds the adapter of the
last slot to the base model's answers. Grouping the tokens by adapter mends both.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import linear
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU


class GroupedPunicaWrapper(PunicaWrapperCPU):
    """Computes ``y += scale * (x @ A.T) @ B.T`` for each adapter's tokens at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._token_groups: list[tuple[int, torch.Tensor | slice]] = []
        self._sampler_groups: list[tuple[int, torch.Tensor | slice]] = []

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Take the adapter slot of each token; once a step, used by every layer."""
        super().update_metadata(*args, **kwargs)
        self._token_groups = list(_groups(self.token_lora_indices))
        self._sampler_groups = list(_groups(self.sampler_indices))

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_kwargs: Any,
    ) -> None:
        """Add every slice's LoRA (q, k and v are one layer in vLLM) to ``y``, in place.

        Shapes: x (tokens, in), A (slots, 1, rank, in), B (slots, 1, out, rank), y (tokens, sum of out).
        """
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        offset = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            _add(y[:, offset : offset + width], x, a, b, scale, self._token_groups)
            offset += width

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_kwargs: Any,
    ) -> None:
        """As :meth:`add_lora_linear`, for the tokens that are sampled."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        width = min(lora_b_stacked.shape[-2], y.shape[-1])
        _add(y[:, :width], x, lora_a_stacked, lora_b_stacked[..., :width, :], scale, self._sampler_groups)


def _groups(slots: torch.Tensor) -> Iterator[tuple[int, torch.Tensor | slice]]:
    """Yield each adapter slot in use with its rows; -1 stands for no adapter and is left out."""
    used = torch.unique(slots).tolist()
    for slot in used:
        if slot >= 0:
            # A slice is a view, an index tensor copies: one adapter alone is the common case.
            yield slot, slice(0, len(slots)) if len(used) == 1 else torch.nonzero(slots == slot).squeeze(1)


def _add(
    y: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    groups: list[tuple[int, torch.Tensor | slice]],
) -> None:
    for slot, rows in groups:
        down = linear(x[rows].to(a.dtype), a[slot].reshape(-1, a.shape[-1]))
        up = linear(down, b[slot].reshape(-1, b.shape[-1])).to(y.dtype)
        y[rows] += scale * up if scale != 1 else up

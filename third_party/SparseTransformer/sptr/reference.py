"""Attention in windows as its definition reads: dense, masked, in float64. Slow; what tests compare with."""

from __future__ import annotations

import torch
from torch import Tensor

from sptr.windows import WindowIndex, relative_index

__all__ = ["dense_window_attention"]


def dense_window_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    index: WindowIndex,
    query_table: Tensor | None = None,
    key_table: Tensor | None = None,
    value_table: Tensor | None = None,
) -> Tensor:
    """:func:`sptr.fused_window_attention` through an [N, N] mask, differentiable, float64 [N, h, d]."""
    query, key, value = query.double(), key.double(), value.double()
    window = torch.empty(len(query), dtype=torch.long)
    window[index.order] = torch.repeat_interleave(index.ptr.diff())
    of_query, of_key = index.positions[:, None], index.positions[None, :]
    rows = relative_index(of_query, of_key, index.kind, index.levels)

    def positional(table: Tensor) -> Tensor:  # [N, N, h, d]
        wide = table.double()
        return wide[rows[..., 0], 0] + wide[rows[..., 1], 1] + wide[rows[..., 2], 2]

    logits = torch.einsum("ihd,jhd->ijh", query, key)
    if query_table is not None:
        logits = logits + torch.einsum("ihd,ijhd->ijh", query, positional(query_table))
    if key_table is not None:
        logits = logits + torch.einsum("jhd,ijhd->ijh", key, positional(key_table))
    outside = window[:, None] != window[None, :]
    weights = logits.masked_fill(outside[..., None], -torch.inf).softmax(dim=1)
    out = torch.einsum("ijh,jhd->ihd", weights, value)
    if value_table is not None:
        out = out + torch.einsum("ijh,ijhd->ihd", weights, positional(value_table))
    return out

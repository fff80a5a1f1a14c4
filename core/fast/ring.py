"""Maps whose columns close to a circle, made ready for convolutions: each end gets the other end's column."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["closed_ring"]


def closed_ring(x: Tensor) -> Tensor:
    """Repeat the last column before the first one and the first behind the last, as F.pad(mode="circular") does.

    One pass over the map; torch's own leaves channels-last order, and convolutions turn the map back.

    Args:
        x: [B, C, H, W], any float dtype.

    Returns:
        [B, C, H, W + 2], channels last in memory.
    """
    ring: Tensor = _ClosedRing.apply(x)
    return ring


class _ClosedRing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        ring = x.new_empty(batch, height, width + 2, channels).permute(0, 3, 1, 2)
        ring[..., 1:-1] = x
        ring[..., 0] = x[..., -1]
        ring[..., -1] = x[..., 0]
        return ring

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        inner = grad[..., 1:-1].clone(memory_format=torch.channels_last)
        inner[..., -1] += grad[..., 0]
        inner[..., 0] += grad[..., -1]
        return inner

"""Layers that networks of several rooms share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.sparse.sync_bn import Synced, synced_batch_norm

__all__ = ["DropPath", "PointBatchNorm"]


class DropPath(nn.Module):
    """Drop the branch of a token with probability p, scaling what is kept (Huang et al., ECCV 2016)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """[N, C] -> [N, C]."""
        if not self.training or self.p == 0:
            return x
        keep = torch.rand(len(x), 1, device=x.device) >= self.p
        return x * (keep / (1 - self.p)).to(x.dtype)


class PointBatchNorm(Synced, nn.BatchNorm1d):
    """Batch normalisation of point features that also takes batches of one point or none (no variance to speak of)."""

    def forward(self, x: Tensor) -> Tensor:
        """[P, C] -> [P, C]."""
        return synced_batch_norm(self, x, self.sync)

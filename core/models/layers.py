"""Layers that networks of several rooms share."""

from __future__ import annotations

from torch import Tensor, nn

from core.sparse.sync_bn import Synced, synced_batch_norm

__all__ = ["PointBatchNorm"]


class PointBatchNorm(Synced, nn.BatchNorm1d):
    """Batch normalisation of point features that also takes batches of one point or none (no variance to speak of)."""

    def forward(self, x: Tensor) -> Tensor:
        """[P, C] -> [P, C]."""
        return synced_batch_norm(self, x, self.sync)

"""Pointwise layers on sparse tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.sparse.sync_bn import Synced, synced_batch_norm
from core.sparse.tensor import SparseTensor

__all__ = ["SparseBatchNorm", "SparseDropout", "SparseLinear", "SparseReLU", "cat"]


# These layers are torch's own, so that weights interchange and what knows torch's layers knows them; they read and
# return the features of a sparse tensor instead of a tensor, which the type checker is told line by line.


class SparseBatchNorm(Synced, nn.BatchNorm1d):
    """Batch normalisation over all voxels of a batch; with ``sync`` over those of all processes."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise: [V, C] -> [V, C]."""
        return x.replace(synced_batch_norm(self, x.feats, self.sync))


class SparseReLU(nn.ReLU):
    """Rectifier."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Rectify: [V, C] -> [V, C]."""
        return x.replace(super().forward(x.feats))


class SparseLinear(nn.Linear):
    """Linear layer per voxel."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Multiply: [V, Cin] -> [V, Cout]."""
        return x.replace(super().forward(x.feats))


class SparseDropout(nn.Dropout):
    """Dropout per feature."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Drop features: [V, C] -> [V, C]."""
        return x.replace(super().forward(x.feats))


def cat(tensors: list[SparseTensor]) -> SparseTensor:
    """Join the channels of tensors on the same voxels.

    Raises:
        ValueError: the tensors have other strides or voxel counts.
    """
    first = tensors[0]
    if any(t.stride != first.stride or t.num_voxels != first.num_voxels for t in tensors[1:]):
        raise ValueError(f"cannot join tensors of strides {[t.stride for t in tensors]}")
    feats: list[Tensor] = [t.feats for t in tensors]
    dtype = feats[0].dtype
    return first.replace(torch.cat([f.to(dtype) for f in feats], 1))

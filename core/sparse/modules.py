"""Pointwise layers on sparse tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.sparse.checks import InvalidInput
from core.sparse.sync_bn import Synced, synced_batch_norm
from core.sparse.tensor import SparseTensor, same_coords

__all__ = ["SparseBatchNorm", "SparseLeakyReLU", "SparseReLU", "cat"]


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


class SparseLeakyReLU(nn.LeakyReLU):
    """Leaky rectifier."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Rectify: [V, C] -> [V, C]."""
        return x.replace(super().forward(x.feats))


def cat(tensors: list[SparseTensor]) -> SparseTensor:
    """Join the channels of tensors on the same voxels.

    Raises:
        InvalidInput: the tensors have other strides or voxels.
    """
    if not tensors:
        raise InvalidInput("no tensor to join", where="cat")
    first = tensors[0]
    for other in tensors[1:]:
        if other.stride != first.stride or not same_coords(other.coords, first.coords):
            raise InvalidInput(
                f"cannot join tensors of strides {first.stride} and {other.stride} on {first.num_voxels} and "
                f"{other.num_voxels} voxels",
                where="cat",
            )
    feats: list[Tensor] = [t.feats for t in tensors]
    dtype = feats[0].dtype
    return first.replace(torch.cat([f.to(dtype) for f in feats], 1))

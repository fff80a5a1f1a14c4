"""A stage of a sparse network, as methods see it."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from core.contracts import Stage
from core.sparse.points import devoxelize, parents
from core.sparse.tensor import SparseTensor, Stride

__all__ = ["SparseStage"]


class SparseStage(Stage):
    """Features on the voxels of one stride; what is derived from them is made on demand.

    Attributes:
        tensor: the features with their voxels.
    """

    def __init__(self, tensor: SparseTensor) -> None:
        self.tensor, self.feats, self.edge = tensor, tensor.feats, tensor.stride

    @cached_property
    def rows(self) -> Tensor:
        """I64 [SV], the voxel that holds each of the batch's cells."""
        return parents(self.tensor, self.tensor.cache.coords)

    def at_cells(self) -> Tensor:
        """Trilinear interpolation at the batch's cells, [SV, C]."""
        return devoxelize(self.tensor)

    @property
    def stride(self) -> Stride:
        """Of the voxels, per axis; the same as ``edge``."""
        return self.tensor.stride

    @property
    def coords(self) -> Tensor:
        """I32 [M, 4] of the voxels."""
        return self.tensor.coords

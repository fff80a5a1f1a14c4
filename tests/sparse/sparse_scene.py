"""Small sparse scenes and their dense twins."""

from __future__ import annotations

import torch

from core.sparse import SparseTensor


def scene(
    voxels: int = 200,
    channels: int = 5,
    size: int = 12,
    batch: int = 2,
    low: int = -4,
    seed: int = 0,
    dtype=torch.float64,
):
    """Random unique voxels, some negative, in random order."""
    g = torch.Generator().manual_seed(seed)
    cells = torch.randperm(batch * size**3, generator=g)[:voxels]
    axes = [cells // size**3] + [(cells // size**i) % size + low for i in (2, 1, 0)]
    coords = torch.stack(axes, 1).int()
    feats = torch.randn(voxels, channels, generator=g, dtype=torch.float64).to(dtype)
    return SparseTensor.from_batch(feats, coords)


def densify(
    feats: torch.Tensor, coords: torch.Tensor, low: int, size: int, batch: int
) -> torch.Tensor:
    """[B, C, size, size, size] with zeros at empty cells; differentiable in feats."""
    b, x, y, z = coords.long().unbind(1)
    dense = feats.new_zeros(batch, size, size, size, feats.shape[1])
    return dense.index_put((b, x - low, y - low, z - low), feats).permute(0, 4, 1, 2, 3)

"""Sparse convolutions on windows, spelt with torch's dense ones in float64 on masked grids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Triple = tuple[int, int, int]


def as_dense_kernel(kernel: Tensor, size: Triple) -> Tensor:
    """Of an engine's kernel [K, cin, cout] (the first axis fastest), torch's [cout, cin, x, y, z]."""
    x, y, z = size
    return kernel.view(z, y, x, *kernel.shape[-2:]).permute(4, 3, 2, 1, 0)


def densified(feats: Tensor, coords: Tensor, sizes: Triple, batch: int, stride: Triple) -> Tensor:
    """[B, C, *sizes] with zeros at empty cells; differentiable in feats."""
    b, x, y, z = coords.long().unbind(1)
    places = (b, x // stride[0], y // stride[1], z // stride[2])
    dense = feats.new_zeros(batch, *sizes, feats.shape[1])
    return dense.index_put(places, feats).permute(0, 4, 1, 2, 3)


def padded(dense: Tensor, size: Triple, wrap: bool) -> Tensor:
    """Room for a centred kernel: zeros, along the second axis the other end where it closes on itself."""
    rx, ry, rz = (length // 2 for length in size)
    if wrap and ry:
        dense = torch.cat([dense[:, :, :, -ry:], dense, dense[:, :, :, :ry]], 3)
        ry = 0
    return F.pad(dense, (rz, rz, ry, ry, rx, rx))


def convolved(dense: Tensor, weight: Tensor, step: Triple, wrap: bool) -> Tensor:
    """Padding 1 of each axis that the kernel is long in, cells kept or strided."""
    return F.conv3d(padded(dense, tuple(weight.shape[2:]), wrap), weight, stride=step)


def touched(mask: Tensor, step: Triple, wrap: bool) -> Tensor:
    """[B, 1, ...]: 1 where the window of a coarse cell holds a cell of the mask."""
    ones = mask.new_ones(1, 1, 3, 3, 3)
    return (convolved(mask, ones, step, wrap) > 0).to(mask)

"""Kernels of spconv, whose major versions lay them out differently: 1 has [z, y, x, in, out], 2 has [out, z, y, x, in].

The axes are those of detectors, whose coordinates are (scan, z, y, x).
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.engine.exchange.families import sparse_kernel
from core.errors import UserError
from core.sparse import Conv3d

__all__ = ["from_spconv", "spconv_shape", "to_spconv"]

_AXES = "zyx"


def spconv_shape(conv: Conv3d, version: str) -> tuple[int, ...]:
    """The shape that a convolution's kernel has in spconv "1" or "2"."""
    x, y, z = conv.kernel_size
    if version == "1":
        return (z, y, x, conv.in_channels, conv.out_channels)
    return (conv.out_channels, z, y, x, conv.in_channels)


def from_spconv(weight: Tensor, conv: Conv3d, name: str, where: str) -> Tensor:
    """A kernel of either version as ``conv`` has it; its lengths are odd.

    Args:
        weight: [z, y, x, in, out] or [out, z, y, x, in]. name, where: of the tensor and its file, for the error.

    Returns:
        [K, in, out] with x running fastest; [in, out] for K = 1.

    Raises:
        UserError: it has neither shape.
    """
    shapes = {version: spconv_shape(conv, version) for version in ("1", "2")}
    if tuple(weight.shape) == shapes["2"]:
        return sparse_kernel(weight, _AXES)
    if tuple(weight.shape) == shapes["1"]:
        return sparse_kernel(weight.permute(4, 0, 1, 2, 3), _AXES)
    raise UserError(
        f"the kernel '{name}' is {list(weight.shape)}; expected {list(shapes['2'])} (spconv 2) or "
        f"{list(shapes['1'])} (spconv 1)",
        where=where,
        cure="Give the configuration that these weights were trained with, data.features above all",
    )


def to_spconv(kernel: Tensor, conv: Conv3d, version: str) -> Tensor:
    """A kernel of ``conv``, whose lengths are odd, as spconv "1" or "2" has it: a copy, contiguous.

    Args:
        kernel: [K, in, out] with x running fastest, [in, out] for K = 1.
    """
    grid = kernel.detach().reshape(spconv_shape(conv, "1"))
    if version == "2":
        grid = grid.permute(4, 0, 1, 2, 3)
    return grid.clone(memory_format=torch.contiguous_format)

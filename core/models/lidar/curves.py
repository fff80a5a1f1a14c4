"""Places of voxels along curves that fill space: Morton's and Hilbert's, each also with x and y exchanged.

What is in order along such a curve is near in space, most of the time. The code of a voxel without its last three bits
is that of the cell of twice the edge it lies in, on every one of these curves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.errors import UserError

__all__ = ["AXIS_BITS", "CURVES", "curve_codes", "hilbert_code", "morton_code"]

AXIS_BITS = 16
CURVES = ("morton", "morton, x and y exchanged", "hilbert", "hilbert, x and y exchanged")
_SCAN_BITS = 63 - 3 * AXIS_BITS


def curve_codes(coords: Tensor) -> Tensor:
    """Codes i64 [4, V] of voxels i32 [V, 4] (scan, x, y, z): the scan, then the place along each of ``CURVES``.

    Raises:
        UserError: a coordinate is negative or has more than ``AXIS_BITS`` bits, or there are 2^15 scans.
    """
    scan, *axes = coords.long().unbind(1)
    xyz = torch.stack(axes, 1)
    if len(xyz) and (
        int(xyz.min()) < 0 or int(xyz.max()) >> AXIS_BITS or int(scan.max()) >> _SCAN_BITS
    ):
        raise UserError(
            f"voxels run from {int(xyz.min())} to {int(xyz.max())}; {1 << AXIS_BITS} along an axis can be put in order",
            where="data.voxel_size",
            cure="The scan holds stray points; set data.point_range, or a larger data.voxel_size",
        )
    turned = xyz[:, [1, 0, 2]]
    places = [morton_code(xyz), morton_code(turned), hilbert_code(xyz), hilbert_code(turned)]
    return torch.stack(places) | scan << 3 * AXIS_BITS


def morton_code(xyz: Tensor, bits: int = AXIS_BITS) -> Tensor:
    """I64 [V]: the bits of x, y and z [V, 3] in turn, the highest first."""
    code = torch.zeros_like(xyz[:, 0])
    for bit in reversed(range(bits)):
        for axis in range(3):
            code = code << 1 | xyz[:, axis] >> bit & 1
    return code


def hilbert_code(xyz: Tensor, bits: int = AXIS_BITS) -> Tensor:
    """I64 [V]: the place along Hilbert's curve (Skilling, Programming the Hilbert curve, AIP 2004) of i64 [V, 3]."""
    axes = list(xyz.unbind(1))
    for bit in reversed(range(1, bits)):
        below = (1 << bit) - 1
        for axis in range(3):
            high = (axes[axis] >> bit & 1).bool()
            # Where the bit is set the first axis is mirrored below it, elsewhere it is exchanged with this one.
            differing = torch.where(high, 0, (axes[0] ^ axes[axis]) & below)
            axes[0] = axes[0] ^ torch.where(high, below, 0) ^ differing
            if axis:
                axes[axis] = axes[axis] ^ differing
    return _ungrayed(morton_code(torch.stack(axes, 1), bits), 3 * bits)


def _ungrayed(code: Tensor, bits: int) -> Tensor:
    """The number whose Gray code this is."""
    shift = 1
    while shift < bits:
        code = code ^ code >> shift
        shift *= 2
    return code

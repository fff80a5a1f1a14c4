"""Windows of a point cloud, and where each token sits inside its window.

An index is computed once per block of layers and reused by every attention that shares coordinates and window.
The partition and the exponential splitting follow SphereFormer (Lai et al., CVPR 2023), sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from sptr.checks import KINDS, check_batch, check_index

__all__ = [
    "KINDS",
    "Extent",
    "WindowIndex",
    "exponential_bins",
    "partition",
    "relative_index",
    "spherical",
    "window_index",
]

Extent: TypeAlias = (
    float | Sequence[float] | np.ndarray | Tensor
)  # one number, or one for each axis


@dataclass(frozen=True)
class WindowIndex:
    """Tokens sorted by window, and their quantised positions.

    Attributes:
        order: i64 [N], tokens window by window (stable inside a window).
        ptr: i64 [W+1], window w holds ``order[ptr[w]:ptr[w+1]]``.
        positions: f32 [N, 3] in token order: integer bins 0..levels-1 inside the window; when ``kind`` is ``radial``
            the third column is the radius in units of the base ``a`` of the exponential splitting.
        kind: ``cubic`` or ``radial``.
        levels: bins per window and axis, G.

    Raises:
        ValueError: ``order`` does not name each token once, ``ptr`` does not rise from 0 to N, positions are not finite
            or no bins; or their sizes, types or devices differ. A GPU is waited for.
    """

    order: Tensor
    ptr: Tensor
    positions: Tensor
    kind: str
    levels: int

    def __post_init__(self) -> None:
        check_index(self.order, self.ptr, self.positions, self.kind, self.levels)

    @property
    def table_length(self) -> int:
        """Least number of rows of a table: 2G-1 relative positions per axis, 2G with exponential splitting."""
        return 2 * self.levels - (1 if self.kind == "cubic" else 0)


def spherical(xyz: Tensor) -> Tensor:
    """Turn ``xyz`` [N, 3] in metres into azimuth 0..360 degrees, inclination 0..180 degrees from up, and range in m."""
    x, y, z = xyz.unbind(-1)
    azimuth = torch.rad2deg(torch.atan2(y, x) + torch.pi)
    inclination = torch.rad2deg(torch.atan2(torch.hypot(x, y), z))
    return torch.stack([azimuth, inclination, xyz.norm(dim=-1)], dim=-1)


def exponential_bins(difference: Tensor) -> Tensor:
    """Split exponentially: the i64 bin of a difference of radii given in units of the base ``a``.

    Outwards the bins are 0, 1, 2, ... with widths 1, 1, 2, 2, 4, 4, ...; a difference below zero has bin ``-k-1``.
    With ``|difference| + 2 = 1.m * 2^e`` the bin is ``2e - 2``, plus one if the leading bit of m is set; float32.
    """
    difference = difference.float()
    bits = (difference.abs() + 2.0).contiguous().view(torch.int32)
    bin_ = (bits >> 22).long() - 256
    return torch.where(difference < 0, -bin_ - 1, bin_)


def relative_index(query: Tensor, key: Tensor, kind: str, levels: int) -> Tensor:
    """Find the tables' rows for each axis: i64 [..., 3] from ``positions`` [..., 3] of queries and keys, broadcast."""
    difference = query - key
    relative = difference.round().long() + (levels - 1)
    if kind == "cubic":
        return relative.clamp(0, 2 * levels - 2)
    radial = exponential_bins(difference[..., 2:]) + levels
    return torch.cat([relative[..., :2], radial], dim=-1).clamp(0, 2 * levels - 1)


def _triple(value: Extent, name: str, like: Tensor) -> Tensor:
    values = torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(3)
    if not bool((values > 0).all()):
        raise ValueError(f"sptr: {name} must be positive on every axis; got {values.tolist()}")
    return values


def _origin(coords: Tensor, batch: Tensor, mode: str) -> Tensor:
    if mode == "batch":
        return coords.amin(0, keepdim=True)
    if mode != "sample":
        raise ValueError(f"sptr: origin must be 'sample' or 'batch'; got {mode!r}")
    lowest = coords.new_full((int(batch.max()) + 1, 3), torch.inf)
    lowest.scatter_reduce_(0, batch[:, None].expand(-1, 3), coords, "amin")
    return lowest.index_select(0, batch)


def partition(
    coords: Tensor,
    batch: Tensor,
    window: Extent,
    *,
    origin: str = "sample",
    shift: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the tokens of every sample into a grid of windows.

    Args:
        coords: float [N, 3], Cartesian (m) or spherical (degrees, degrees, m).
        batch: int [N], sample of each token, >= 0.
        window: size of a window, in the units of ``coords``; one number or three.
        origin: ``sample``: the grid starts at each sample's minimum, so a prediction does not depend on what else is in
            the batch; ``batch``: at the minimum of the whole batch, as released SphereFormer weights were trained.
        shift: move the grid by half a window.

    Returns:
        order i64 [N], ptr i64 [W+1], and the coordinates inside the window, [N, 3].

    Raises:
        ValueError: a wrong shape or type, a negative sample, a window that is not positive, coordinates that are not
            finite or span too far.
    """
    if coords.ndim != 2 or coords.shape[1] != 3 or batch.shape != coords.shape[:1]:
        raise ValueError(
            f"sptr: expected coords [N, 3] and batch [N]; got {list(coords.shape)} and {list(batch.shape)}"
        )
    if not coords.is_floating_point():
        raise ValueError(f"sptr: coords must be floating; got {coords.dtype}")
    check_batch(batch)
    batch = batch.long()
    if not len(coords):
        return batch, batch.new_zeros(1), coords
    size = _triple(window, "window", coords)
    local = coords - _origin(coords, batch, origin)
    if shift:
        local = local + size / 2
    cell = torch.floor(local / size)
    inside = local - cell * size
    samples = int(batch.max()) + 1
    span = (cell.amax(0).double() + 1).tolist()
    total = samples * span[0] * span[1] * span[2]
    if not total < 2**62:  # also catches NaN and infinity
        raise ValueError(
            f"sptr: coordinates must be finite and span less than 2^62 windows; got {span} windows per axis"
        )
    key = batch
    for axis, column in enumerate(cell.long().unbind(1)):
        key = key * int(span[axis]) + column
    ordered, order = key.sort(stable=True)
    _, counts = torch.unique_consecutive(ordered, return_counts=True)
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return order, ptr, inside


def window_index(
    coords: Tensor,
    batch: Tensor,
    window: Extent,
    quant: Extent,
    *,
    levels: int = 24,
    kind: str = "cubic",
    base: float = 0.0125,
    origin: str = "sample",
    shift: bool = False,
) -> WindowIndex:
    """Windows and quantised positions of one attention branch.

    Args:
        coords: float [N, 3]; for ``radial`` the output of :func:`spherical`.
        batch: int [N].
        window: see :func:`partition`.
        quant: width of a bin, in the units of ``coords`` (window / levels by design). Not used on the radial axis.
        levels: bins per window and axis, G.
        kind: ``cubic``, or ``radial`` for exponential splitting of the third axis.
        base: ``a``, width of the innermost radial bin (m).
        origin: see :func:`partition`.
        shift: see :func:`partition`.

    Raises:
        ValueError: see :func:`partition`; or ``kind``, ``levels``, ``quant`` or ``base`` are out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"sptr: kind must be one of {KINDS}; got {kind!r}")
    if levels < 1 or not base > 0:
        raise ValueError(
            f"sptr: levels must be at least 1 and base positive; got {levels} and {base}"
        )
    order, ptr, inside = partition(coords, batch, window, origin=origin, shift=shift)
    bins = torch.floor(inside / _triple(quant, "quant", coords))
    positions = bins.clamp(0, levels - 1).float()
    if kind == "radial":
        positions[:, 2] = coords[:, 2] / base
    return WindowIndex(order, ptr, positions, kind, levels)

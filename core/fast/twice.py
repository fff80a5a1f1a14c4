"""Upsampling to twice the size at given places (DySample), written where the next convolution reads it."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from core.fast.bits import bfloat16_bits, to_bits
from core.sparse.checks import InvalidInput, check_tensor

__all__ = ["GROUPS", "sample_twice"]

GROUPS = 4  # of channels with places each
_SUB = 4  # pixels that a pixel becomes
_FAR = 1e9  # px, beyond which a place is none
_WHERE = "upsampling"


def sample_twice(
    x: Tensor, offset: Tensor, target: Tensor, corner: tuple[int, int], *, closed: bool
) -> None:
    """Interpolate a map at two by two places of each pixel; bilinear, and the border goes on beyond the map.

    Args:
        x: f32 [B, H, W, C] on a processor; C a multiple of ``GROUPS``.
        offset: f32 [B, H, W, 2 * GROUPS * 4] px from a pixel's centre: across, then along; of these by group, then row
            and column of the four. What is no number gives none.
        target: f32 or bf16 [B, H', W', C'] in order; gets pixel (0, 0) in row 0, column ``corner[0]`` and channel
            ``corner[1]``.
        closed: the last column is beside the first.

    Raises:
        InvalidInput: sizes or number types are others.
    """
    batch, height, width, channels = x.shape
    check_tensor("the map", x, torch.float32, (None, None, None, None), _WHERE)
    places = (batch, height, width, 2 * GROUPS * _SUB)
    check_tensor("the offsets", offset, torch.float32, places, _WHERE)
    check_tensor("the target", target, None, (batch, None, None, None), _WHERE)
    _, rows, columns, stride = target.shape
    least = (2 * height, corner[0] + 2 * width, corner[1] + channels)
    fits = all(have >= need for have, need in zip((rows, columns, stride), least))
    if not fits or channels % GROUPS or not target.is_contiguous():
        raise InvalidInput(
            f"a target of {rows} x {columns} pixels with {stride} channels for {least}",
            where=_WHERE,
        )
    empty = np.empty(0, np.float32)
    wide, narrow = empty, empty.view(np.uint16)
    flat = target.view(-1)[corner[0] * stride + corner[1] :]
    if target.dtype == torch.float32:
        wide = flat.numpy()
    elif target.dtype == torch.bfloat16:
        narrow = bfloat16_bits(flat)
    else:
        raise InvalidInput(f"a target of {target.dtype}", where=_WHERE)
    _sample(
        x.contiguous().view(batch * height, -1).numpy(),
        offset.contiguous().view(batch * height, width, -1).numpy(),
        (height, channels // GROUPS),
        wide,
        narrow,
        (rows, columns, stride),
        closed,
    )


@numba.njit("Tuple((i8, i8, f4))(f4, i8, b1)", cache=True, nogil=True, inline="always")
def _taps(place: np.float32, size: int, closed: bool) -> tuple[int, int, np.float32]:
    """The two pixels about a place, and the share of the second."""
    if not closed:
        place = np.float32(min(max(place, np.float32(0)), np.float32(size - 1)))
    below = np.floor(place)
    share = np.float32(place - below)  # NaN, if the place is
    first = 0
    if abs(place) < _FAR:
        first = int(below)
    second = first + 1
    if not closed:
        return first, min(second, size - 1), share
    if first < 0 or second >= size:
        first, second = first % size, second % size
    return first, second, share


@numba.njit(
    "void(f4[:,::1], f4[:,:,::1], UniTuple(i8, 2), f4[::1], u2[::1], UniTuple(i8, 3), b1)",
    cache=True,
    nogil=True,
    fastmath={"contract"},
)
def _sample(
    x: np.ndarray,
    offset: np.ndarray,
    sizes: tuple[int, int],
    wide: np.ndarray,
    narrow: np.ndarray,
    target: tuple[int, int, int],
    closed: bool,
) -> None:
    """Row by row; indices without a sign, so that the loops over channels are made of vectors."""
    height, size = sizes
    rows, columns, stride = target
    is_wide = wide.shape[0] > 0
    width = offset.shape[1]
    one, pixel, count = np.float32(1), np.uint64(GROUPS * size), np.uint64(size)
    found = np.empty(size, np.float32)
    for line in range(offset.shape[0]):
        scan, i = line // height, line % height
        for j in range(width):
            for part in range(GROUPS * _SUB):
                group, sub = part // _SUB, part % _SUB
                across = np.float32(j) + offset[line, j, part]
                along = np.float32(i) + offset[line, j, GROUPS * _SUB + part]
                left, right, to_right = _taps(across, width, closed)
                top, bottom, down = _taps(along, height, False)
                first = np.uint64(group * size)
                west, east = np.uint64(left) * pixel + first, np.uint64(right) * pixel + first
                upper, lower = x[scan * height + top], x[scan * height + bottom]
                a, b = (one - to_right) * (one - down), to_right * (one - down)
                c, d = (one - to_right) * down, to_right * down
                for k in range(count):
                    above = a * upper[west + k] + b * upper[east + k]
                    found[k] = above + (c * lower[west + k] + d * lower[east + k])
                row, column = scan * rows + 2 * i + sub // 2, 2 * j + sub % 2
                place = np.uint64((row * columns + column) * stride) + first
                if is_wide:
                    for k in range(count):
                        wide[place + k] = found[k]
                else:
                    for k in range(count):
                        narrow[place + k] = to_bits(found[k])

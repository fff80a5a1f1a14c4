"""Sums of the pixels of each centre, in whole numbers: exact in whatever order they are made."""

from __future__ import annotations

import numba
import numpy as np

from core.data.superpixels.tiles import OUTSIDE, PIXELS, SIDE

__all__ = ["COUNT", "PLACE", "SUMS", "add", "sum_tiles"]

# What is summed of a centre's pixels: their number, rows, columns and three colours.
COUNT, PLACE, _COLOURS = 0, 1, 3
SUMS = 6


@numba.njit("i4(i2[::1], i2)", cache=True, nogil=True)
def _count(labels: np.ndarray, number: np.int16) -> np.int32:
    """How many pixels of a tile are a centre's."""
    count = np.int32(0)
    for i in range(PIXELS):
        count = np.int32(count + np.int32(labels[i] == number))
    return count


@numba.njit("void(i2[:,::1], i2[::1], i2, i8, i8, i8, i8[::1])", cache=True, nogil=True)
def _sum(
    colours: np.ndarray,
    labels: np.ndarray,
    number: np.int16,
    count: int,
    top: int,
    left: int,
    sums: np.ndarray,
) -> None:
    """Sum the ``count`` pixels of a tile that are a centre's: places and colours."""
    rows = columns = s0 = s1 = s2 = np.int32(0)
    c0, c1, c2 = colours[0], colours[1], colours[2]  # unpacked they would be read with a stride
    for i in range(PIXELS):
        own = np.int32(-np.int32(labels[i] == number))  # all bits, or none
        rows = np.int32(rows + (np.int32(i // SIDE) & own))
        columns = np.int32(columns + (np.int32(i % SIDE) & own))
        s0 = np.int32(s0 + (np.int32(c0[i]) & own))
        s1 = np.int32(s1 + (np.int32(c1[i]) & own))
        s2 = np.int32(s2 + (np.int32(c2[i]) & own))
    sums[COUNT] = count
    sums[PLACE] = rows + top * count
    sums[PLACE + 1] = columns + left * count
    sums[_COLOURS] = s0
    sums[_COLOURS + 1] = s1
    sums[_COLOURS + 2] = s2


@numba.njit("void(i2[:,:,:,::1], i2[:,:,::1], i8[:,:,::1])", cache=True, nogil=True)
def sum_tiles(tiles: np.ndarray, labels: np.ndarray, totals: np.ndarray) -> None:
    """Sum all pixels of each tile that lie in the image, while all labels are 0."""
    for i in range(tiles.shape[0]):
        for j in range(tiles.shape[1]):
            count = _count(labels[i, j], np.int16(0))
            first, second = i * SIDE, j * SIDE
            _sum(tiles[i, j], labels[i, j], np.int16(0), count, first, second, totals[i, j])


@numba.njit("void(i2[:,::1], i2[::1], i8[::1], i8, i8, i8[:,::1])", cache=True, nogil=True)
def _add_kept(
    colours: np.ndarray,
    labels: np.ndarray,
    asked: np.ndarray,
    top: int,
    left: int,
    sums: np.ndarray,
) -> None:
    """Add the pixels of a tile that no window holds: they keep their centre, which was not asked."""
    for i in range(PIXELS):
        k = np.int64(labels[i])
        if k == OUTSIDE or (asked == k).any():
            continue
        sums[k, COUNT] += 1
        sums[k, PLACE] += top + i // SIDE
        sums[k, PLACE + 1] += left + i % SIDE
        for c in range(3):
            sums[k, _COLOURS + c] += colours[c, i]


@numba.njit(
    "void(i2[:,::1], i2[::1], i8[::1], i8[::1], i8, i8, i8[::1], i8[:,::1])", cache=True, nogil=True
)
def add(
    colours: np.ndarray,
    labels: np.ndarray,
    total: np.ndarray,
    asked: np.ndarray,
    top: int,
    left: int,
    part: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add a tile's pixels to the sums of their centres; what all the others leave is the last one's."""
    rest = part[SUMS:]
    rest[:] = total
    for n in range(len(asked)):
        k = asked[n]
        count = _count(labels, np.int16(k))
        if count == 0:
            continue
        if count == rest[COUNT]:
            for c in range(SUMS):
                sums[k, c] += rest[c]
            return
        _sum(colours, labels, np.int16(k), count, top, left, part[:SUMS])
        for c in range(SUMS):
            sums[k, c] += part[c]
            rest[c] -= part[c]
    if rest[COUNT] > 0:
        _add_kept(colours, labels, asked, top, left, sums)

"""A tile and the centres around it: which can be nearest to one of its pixels, and which is."""

from __future__ import annotations

import numba
import numpy as np

from core.data.superpixels.tiles import OUTSIDE, PIXELS, SIDE

__all__ = ["ask_all", "load", "new_tile", "store"]

_FAR = np.float32(np.inf)
_MATHS = {"nnan", "nsz"}  # no number here is NaN; sums keep their order, so that all machines agree
# Where a tile's pixels keep what, in one buffer: compilers then know that no part reaches into another.
_C0, _C1, _C2, _NEAREST, _Y, _X, _BEST, _CENTRE = (PIXELS * part for part in range(8))
_WINDOW = _CENTRE + 5


@numba.njit("f4[::1]()", cache=True, nogil=True)
def new_tile() -> np.ndarray:
    """A buffer for any tile: f32, the places of its pixels set."""
    tile = np.empty(_WINDOW + 4, np.float32)
    for i in range(PIXELS):
        tile[_Y + i] = i // SIDE
        tile[_X + i] = i % SIDE
    return tile


@numba.njit("f4(f4, f4, f4)", cache=True, nogil=True, fastmath=_MATHS, inline="always")
def _gap(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """The least distance of low..high to a value."""
    beyond = low - value if low - value > value - high else value - high
    return beyond if beyond > np.float32(0) else np.float32(0)


@numba.njit("f4(f4, f4, f4)", cache=True, nogil=True, fastmath=_MATHS, inline="always")
def _reach(value: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """The greatest distance of low..high to a value."""
    return high - value if high - value > value - low else value - low


@numba.njit(
    "void(f4[:,::1], i8, f4, f4, f4[:,::1], f4[:,::1])", cache=True, nogil=True, fastmath=_MATHS
)
def _bounds(
    near: np.ndarray, count: int, top: float, left: float, box: np.ndarray, bounds: np.ndarray
) -> None:
    """Least and greatest distance that a tile's pixels can have to each centre, rounded as :func:`_ask` rounds."""
    y0, y1, x0, x1 = box[0, 0], box[0, 1], box[1, 0], box[1, 1]
    a0, a1, b0, b1, c0, c1 = box[2, 0], box[2, 1], box[3, 0], box[3, 1], box[4, 0], box[4, 1]
    for k in range(count):
        y, x = near[0, k] - top, near[1, k] - left
        a, b, c = near[2, k], near[3, k], near[4, k]
        dy, dx = _gap(y, y0, y1), _gap(x, x0, x1)
        da, db, dc = _gap(a, a0, a1), _gap(b, b0, b1), _gap(c, c0, c1)
        bounds[0, k] = (dy * dy + dx * dx) + (da * da + db * db + dc * dc)
        dy, dx = _reach(y, y0, y1), _reach(x, x0, x1)
        da, db, dc = _reach(a, a0, a1), _reach(b, b0, b1), _reach(c, c0, c1)
        bounds[1, k] = (dy * dy + dx * dx) + (da * da + db * db + dc * dc)


@numba.njit("void(f4[::1], f4[::1], f4)", cache=True, nogil=True, fastmath=_MATHS)
def _ask(tile: np.ndarray, centre: np.ndarray, number: float) -> None:
    """Give those of a tile's pixels to a centre that it is the nearest of so far."""
    cy, cx, c0, c1, c2 = centre[0], centre[1], centre[2], centre[3], centre[4]
    for i in range(PIXELS):
        dy = tile[_Y + i] - cy
        dx = tile[_X + i] - cx
        d0 = tile[_C0 + i] - c0
        d1 = tile[_C1 + i] - c1
        d2 = tile[_C2 + i] - c2
        distance = (dy * dy + dx * dx) + (d0 * d0 + d1 * d1 + d2 * d2)
        best, nearest = tile[_BEST + i], tile[_NEAREST + i]
        nearer = distance < best
        tile[_BEST + i] = distance if nearer else best
        tile[_NEAREST + i] = number if nearer else nearest


@numba.njit("void(f4[::1], f4[::1], f4, f4[::1])", cache=True, nogil=True, fastmath=_MATHS)
def _ask_within(tile: np.ndarray, centre: np.ndarray, number: float, window: np.ndarray) -> None:
    """:func:`_ask` of those alone that lie in the centre's window."""
    cy, cx, c0, c1, c2 = centre[0], centre[1], centre[2], centre[3], centre[4]
    first_row, end_row, first_column, end_column = window[0], window[1], window[2], window[3]
    for i in range(PIXELS):
        y, x = tile[_Y + i], tile[_X + i]
        dy = y - cy
        dx = x - cx
        d0 = tile[_C0 + i] - c0
        d1 = tile[_C1 + i] - c1
        d2 = tile[_C2 + i] - c2
        distance = (dy * dy + dx * dx) + (d0 * d0 + d1 * d1 + d2 * d2)
        best, nearest = tile[_BEST + i], tile[_NEAREST + i]
        inside = (y >= first_row) & (y < end_row) & (x >= first_column) & (x < end_column)
        nearer = inside & (distance < best)
        tile[_BEST + i] = distance if nearer else best
        tile[_NEAREST + i] = number if nearer else nearest


@numba.njit("void(i2[::1], i2[::1], f4, f4[::1])", cache=True, nogil=True, fastmath=_MATHS)
def load(colours: np.ndarray, labels: np.ndarray, stretch: float, tile: np.ndarray) -> None:
    """Take in a tile; what lies outside is as near as can be, so that nothing is nearer."""
    for i in range(3 * PIXELS):
        tile[i] = colours[i] * stretch
    for i in range(PIXELS):
        tile[_NEAREST + i] = labels[i]
        tile[_BEST + i] = np.float32(-1) if labels[i] == OUTSIDE else _FAR


@numba.njit("b1(f4[::1], i2[::1])", cache=True, nogil=True)
def store(tile: np.ndarray, labels: np.ndarray) -> bool:
    """Keep the centres that were found; tells whether one is another than before."""
    changed = np.int32(0)
    for i in range(PIXELS):
        label = np.int16(tile[_NEAREST + i])
        changed = np.int32(changed + np.int32(label != labels[i]))
        labels[i] = label
    return bool(changed)


@numba.njit(
    "i8(f4[:,::1], i8[::1], i8, i8, i8, UniTuple(i8, 2), f4[:,::1], f4[:,::1], f4[::1], i8[::1])",
    cache=True,
    nogil=True,
)
def ask_all(
    near: np.ndarray,
    numbers: np.ndarray,
    count: int,
    top: int,
    left: int,
    size: tuple[int, int],
    box: np.ndarray,
    bounds: np.ndarray,
    tile: np.ndarray,
    asked: np.ndarray,
) -> int:
    """Ask the centres that can be nearest to a pixel of a tile, in order; returns how many, ``asked`` takes which."""
    _bounds(near, count, np.float32(top), np.float32(left), box, bounds)
    rows, columns = size
    centre, window = tile[_CENTRE:_WINDOW], tile[_WINDOW:]
    limit = _FAR
    for k in range(count):
        whole = near[5, k] <= top and near[6, k] >= top + rows
        whole &= near[7, k] <= left and near[8, k] >= left + columns
        if whole:
            limit = min(limit, bounds[1, k])
    found = 0
    for k in range(count):
        if bounds[0, k] > limit:
            continue
        window[0] = near[5, k] - top
        window[1] = near[6, k] - top
        window[2] = near[7, k] - left
        window[3] = near[8, k] - left
        if window[0] >= rows or window[1] <= 0 or window[2] >= columns or window[3] <= 0:
            continue
        centre[0] = near[0, k] - np.float32(top)
        centre[1] = near[1, k] - np.float32(left)
        for c in range(2, 5):
            centre[c] = near[c, k]
        number = np.float32(numbers[k])
        whole = window[0] <= 0 and window[1] >= rows
        whole &= window[2] <= 0 and window[3] >= columns
        if whole:
            _ask(tile, centre, number)
        else:
            _ask_within(tile, centre, number, window)
        asked[found] = numbers[k]
        found += 1
    return found

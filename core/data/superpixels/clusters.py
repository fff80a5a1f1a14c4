"""k-means in colour and place whose centres look two grid steps around, square tile by tile.

A tile of pixels asks the centres around it, those first that can be nearest, and stops where its place and its colours
keep the others away: of the 16 windows that hold a pixel, few are looked at. What comes out is what asking every centre
gives. Images are held tile by tile, so that compiled loops run over whole tiles.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["cluster"]

_SIDE = 16  # px, of a tile
_PIXELS = _SIDE * _SIDE
# Where a tile's pixels keep what, in one buffer: compilers then know that no part reaches into another.
_C0, _C1, _C2, _NEAREST, _Y, _X, _BEST = (_PIXELS * part for part in range(7))
_OUTSIDE = -1.0  # the distance of what lies beyond the image: nothing is nearer
_MATHS = {"nnan", "nsz"}  # no number here is NaN; sums keep their order, so that all machines agree


def cluster(colours: np.ndarray, centres: np.ndarray, step: int, iterations: int) -> np.ndarray:
    """Find the centre of each pixel.

    In the first iteration centres have no colour, so that it is one of places alone. Of two that are equally near, the
    first is taken.

    Args:
        colours: f64 [3, H, W], scaled as the distance wants them.
        centres: f64 [K, 5], row, column and colours; they are moved.
        step: px, of the grid; a distance of so much weighs 1.
        iterations: at most.

    Returns:
        i32 [H, W], rows of ``centres``.
    """
    height, width = colours.shape[1:]
    tiles = _tiled(colours)
    boxes = _boxes(tiles, height, width)
    for _ in range(iterations):
        if not _assign(tiles, boxes, centres, step, height, width):
            break
        _move(tiles, centres, height, width)
    down, across = -(-height // _SIDE), -(-width // _SIDE)
    nearest = tiles[:, _NEAREST : _NEAREST + _PIXELS].reshape(down, across, _SIDE, _SIDE)
    whole = nearest.transpose(0, 2, 1, 3).reshape(down * _SIDE, across * _SIDE)
    return np.ascontiguousarray(whole[:height, :width].astype(np.int32))


def _tiled(colours: np.ndarray) -> np.ndarray:
    """Colours of each tile's pixels and a place for the centre of each, f64 [T, 4 * _PIXELS]."""
    height, width = colours.shape[1:]
    below, right = -height % _SIDE, -width % _SIDE
    padded = np.pad(colours, ((0, 0), (0, below), (0, right)), mode="edge")
    parts = padded.reshape(3, (height + below) // _SIDE, _SIDE, (width + right) // _SIDE, _SIDE)
    tiles = np.zeros((parts.shape[1], parts.shape[3], 4, _SIDE, _SIDE))
    tiles[:, :, :3] = parts.transpose(1, 3, 0, 2, 4)
    return tiles.reshape(-1, 4 * _PIXELS)


@numba.njit("Tuple((i8, i8))(f8, i8, i8)", cache=True, nogil=True)
def _window(place: float, step: int, size: int) -> tuple[int, int]:
    """First pixel of a centre's window along one axis, and the one behind its last."""
    return int(max(place - 2 * step, 0)), int(min(place + 2 * step + 1, size))


@numba.njit("Tuple((i8[::1], i4[::1]))(f8[:,::1], i8, i8, i8)", cache=True, nogil=True)
def _candidates(
    centres: np.ndarray, step: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """The centres whose windows meet each tile, by number: where each tile's begin, and they."""
    down, across = (height + _SIDE - 1) // _SIDE, (width + _SIDE - 1) // _SIDE
    starts = np.zeros(down * across + 1, np.int64)
    found = np.empty(0, np.int32)
    for counting in (True, False):
        if not counting:
            found = np.empty(starts[-1], np.int32)
        for k in range(len(centres)):
            top, bottom = _window(centres[k, 0], step, height)
            left, right = _window(centres[k, 1], step, width)
            for i in range(top // _SIDE, (bottom - 1) // _SIDE + 1):
                for j in range(left // _SIDE, (right - 1) // _SIDE + 1):
                    tile = i * across + j
                    if counting:
                        starts[tile + 1] += 1
                    else:
                        found[starts[tile]] = k
                        starts[tile] += 1
        if counting:
            starts = np.cumsum(starts)
    starts[1:] = starts[:-1]  # each was moved to the next one's place
    starts[0] = 0
    return starts, found


@numba.njit("f8[:,:,::1](f8[:,::1], i8, i8)", cache=True, nogil=True, fastmath=_MATHS)
def _boxes(tiles: np.ndarray, height: int, width: int) -> np.ndarray:
    """Least and greatest row, column and colours of each tile, f64 [T, 5, 2]."""
    across = (width + _SIDE - 1) // _SIDE
    boxes = np.empty((len(tiles), 5, 2))
    for tile in range(len(tiles)):
        top, left = tile // across * _SIDE, tile % across * _SIDE
        boxes[tile, 0] = (top, min(top + _SIDE, height) - 1)
        boxes[tile, 1] = (left, min(left + _SIDE, width) - 1)
        for c in range(3):
            values = tiles[tile, c * _PIXELS : (c + 1) * _PIXELS]
            low = high = values[0]
            for i in range(_PIXELS):
                low, high = min(low, values[i]), max(high, values[i])
            boxes[tile, 2 + c] = (low, high)
    return boxes


@numba.njit("f8(f8[:,::1], f8[::1], f8)", cache=True, nogil=True)
def _bound(box: np.ndarray, centre: np.ndarray, weight: float) -> float:
    """The least distance that a pixel of a tile can have to a centre, rounded as :func:`_ask` rounds."""
    apart = np.empty(5)
    for axis in range(5):
        apart[axis] = max(box[axis, 0] - centre[axis], centre[axis] - box[axis, 1], 0.0) ** 2
    return (apart[0] + apart[1]) * weight + (apart[2] + apart[3] + apart[4])


@numba.njit("i8(i4[::1], f8[:,::1], f8[:,::1], f8, i4[::1], f8[::1])", cache=True, nogil=True)
def _order(
    candidates: np.ndarray,
    centres: np.ndarray,
    box: np.ndarray,
    weight: float,
    order: np.ndarray,
    bounds: np.ndarray,
) -> int:
    """Sort a tile's candidates by :func:`_bound`, which is kept in ``bounds``; returns how many there are."""
    for n in range(len(candidates)):
        k = candidates[n]
        bound = _bound(box, centres[k], weight)
        place = n
        while place > 0 and bounds[place - 1] > bound:
            bounds[place] = bounds[place - 1]
            order[place] = order[place - 1]
            place -= 1
        bounds[place] = bound
        order[place] = k
    return len(candidates)


@numba.njit("void(f8[::1], f8[::1], f8, f8, f8[::1])", cache=True, nogil=True, fastmath=_MATHS)
def _ask(
    tile: np.ndarray, centre: np.ndarray, number: float, weight: float, window: np.ndarray
) -> None:
    """Give those of a tile's pixels that lie in a centre's window to it if it is the nearest so far."""
    cy, cx, c0, c1, c2 = centre[0], centre[1], centre[2], centre[3], centre[4]
    top, bottom, left, right = window[0], window[1], window[2], window[3]
    for i in range(_PIXELS):
        y, x = tile[_Y + i], tile[_X + i]
        dy = cy - y
        dx = cx - x
        d0 = tile[_C0 + i] - c0
        d1 = tile[_C1 + i] - c1
        d2 = tile[_C2 + i] - c2
        distance = (dy * dy + dx * dx) * weight + (d0 * d0 + d1 * d1 + d2 * d2)
        best, nearest = tile[_BEST + i], tile[_NEAREST + i]
        inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
        nearer = inside & ((distance < best) | ((distance == best) & (number < nearest)))
        tile[_BEST + i] = distance if nearer else best
        tile[_NEAREST + i] = number if nearer else nearest


@numba.njit("f8(f8[::1])", cache=True, nogil=True, fastmath=_MATHS)
def _worst(tile: np.ndarray) -> float:
    """The greatest distance of a pixel to its centre."""
    worst = _OUTSIDE
    for i in range(_PIXELS):
        worst = max(worst, tile[_BEST + i])
    return worst


@numba.njit("void(f8[::1], i8, i8, i8, i8, f8[::1])", cache=True, nogil=True)
def _load(
    stored: np.ndarray, top: int, left: int, rows: int, columns: int, tile: np.ndarray
) -> None:
    """Take in a tile, of which so many rows and columns lie in the image."""
    for i in range(4 * _PIXELS):
        tile[i] = stored[i]
    for i in range(_PIXELS):
        tile[_Y + i] = top + i // _SIDE
        tile[_X + i] = left + i % _SIDE
    whole = rows >= _SIDE and columns >= _SIDE
    for i in range(_PIXELS):
        tile[_BEST + i] = np.inf if whole else _OUTSIDE
    if not whole:
        for y in range(min(rows, _SIDE)):
            for x in range(min(columns, _SIDE)):
                tile[_BEST + y * _SIDE + x] = np.inf


@numba.njit("b1(f8[::1], f8[::1])", cache=True, nogil=True)
def _store(tile: np.ndarray, stored: np.ndarray) -> bool:
    """Keep the centres that were found; tells whether one is another than before."""
    changed = 0
    for i in range(_PIXELS):
        changed += stored[_NEAREST + i] != tile[_NEAREST + i]
        stored[_NEAREST + i] = tile[_NEAREST + i]
    return changed > 0


@numba.njit("b1(f8[:,::1], f8[:,:,::1], f8[:,::1], i8, i8, i8)", cache=True, nogil=True)
def _assign(
    tiles: np.ndarray, boxes: np.ndarray, centres: np.ndarray, step: int, height: int, width: int
) -> bool:
    """Give each pixel that lies in a window the nearest centre; the others keep theirs. Tells whether one changed."""
    across = (width + _SIDE - 1) // _SIDE
    weight = 1.0 / (step * step)
    starts, candidates = _candidates(centres, step, height, width)
    order = np.empty(len(centres), np.int32)
    bounds = np.empty(len(centres))
    tile = np.zeros(7 * _PIXELS)
    window = np.empty(4)
    changed = False
    for number in range(len(tiles)):
        top, left = number // across * _SIDE, number % across * _SIDE
        _load(tiles[number], top, left, height - top, width - left, tile)
        around = candidates[starts[number] : starts[number + 1]]
        count = _order(around, centres, boxes[number], weight, order, bounds)
        worst = np.inf
        for n in range(count):
            if bounds[n] > worst:
                break
            k = order[n]
            window[0], window[1] = _window(centres[k, 0], step, height)
            window[2], window[3] = _window(centres[k, 1], step, width)
            _ask(tile, centres[k], k, weight, window)
            worst = _worst(tile)
        changed |= _store(tile, tiles[number])
    return changed


@numba.njit("void(f8[:,::1], f8[:,::1], i8, i8)", cache=True, nogil=True)
def _move(tiles: np.ndarray, centres: np.ndarray, height: int, width: int) -> None:
    """Move each centre to the mean of its pixels; one without any stays. Pixels of a row are summed run by run."""
    across = (width + _SIDE - 1) // _SIDE
    count = np.zeros(len(centres))
    sums = np.zeros_like(centres)
    for number in range(len(tiles)):
        top, left = number // across * _SIDE, number % across * _SIDE
        tile = tiles[number]
        columns = min(_SIDE, width - left)
        for row in range(min(_SIDE, height - top)):
            first = row * _SIDE
            end = first + columns
            while first < end:
                nearest = tile[_NEAREST + first]
                s0 = s1 = s2 = 0.0
                i = first
                while i < end and tile[_NEAREST + i] == nearest:
                    s0 += tile[_C0 + i]
                    s1 += tile[_C1 + i]
                    s2 += tile[_C2 + i]
                    i += 1
                centre, run = np.int64(nearest), i - first
                count[centre] += run
                sums[centre, 0] += (top + row) * run
                sums[centre, 1] += run * (left - row * _SIDE + 0.5 * (first + i - 1))
                sums[centre, 2] += s0
                sums[centre, 3] += s1
                sums[centre, 4] += s2
                first = i
    for k in range(len(centres)):
        if count[k] > 0:
            centres[k] = sums[k] / count[k]

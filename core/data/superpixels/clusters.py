"""k-means in colour and place whose centres look two grid steps around, square tile by tile.

Of the 16 windows that hold a pixel, few are looked at: the place and the colours of a tile bound how near and how far a
centre can be to its pixels, and centres that are farther than another one is at most are left out. What comes out is
what asking every centre gives. Distances are squared and in pixels: colours are stretched until a distance in colour of
``compactness`` is as far as one step of the grid.
"""

from __future__ import annotations

import numba
import numpy as np

from core.data.superpixels.nearest import ask_all, load, new_tile, store
from core.data.superpixels.sums import COUNT, PLACE, SUMS, add, sum_tiles
from core.data.superpixels.tiles import SIDE, UNIT, boxes_of, cut, empty_labels, joined

__all__ = ["cluster"]

_BLOCK = 4  # tiles along a side of what shares a list of centres


def cluster(
    colours: np.ndarray, places: np.ndarray, step: int, compactness: float, iterations: int
) -> np.ndarray:
    """Find the centre of each pixel.

    In the first iteration centres have no colour, so that it is one of places alone. Of two that are equally near, the
    first is taken.

    Args:
        colours: f32 [3, H, W] Lab.
        places: [K, 2], row and column of each centre at the beginning; at most 32,767, labels have 16 bits here.
        step: px, of the grid.
        compactness: distance in colour that weighs as much as a step.
        iterations: at most.

    Returns:
        i32 [H, W], rows of ``places``.
    """
    height, width = colours.shape[1:]
    tiles = cut(colours)
    boxes = boxes_of(tiles)
    labels = empty_labels(height, width)
    totals = np.empty((*labels.shape[:2], SUMS), np.int64)
    sum_tiles(tiles, labels, totals)
    centres = np.zeros((5, len(places)))
    centres[:2] = places.T
    stretch = 0.0
    for _ in range(iterations):
        sums = np.zeros((len(places), SUMS), np.int64)
        near = centres.astype(np.float32)
        if not _assign(tiles, boxes, totals, labels, near, step, stretch, (height, width), sums):
            break
        stretch = step / (compactness * UNIT)
        _move(centres, sums, stretch)
    return joined(labels, height, width)


def _move(centres: np.ndarray, sums: np.ndarray, stretch: float) -> None:
    """Move each centre to the mean of its pixels; one without any stays."""
    with_pixels = sums[:, COUNT] > 0
    own = sums[with_pixels]
    means = own[:, PLACE:] / own[:, COUNT, None]
    means[:, 2:] *= stretch
    centres[:, with_pixels] = means.T


@numba.njit(
    "i8(f4[:,::1], i8, i8, i8, UniTuple(i8, 2), f4[:,::1], i8[::1])", cache=True, nogil=True
)
def _around(
    centres: np.ndarray,
    step: int,
    top: int,
    left: int,
    shape: tuple[int, int],
    near: np.ndarray,
    numbers: np.ndarray,
) -> int:
    """The centres whose windows meet a block of tiles, in order; returns how many.

    ``near`` takes their places and colours, and their windows: first row, the one behind the last, the same of columns.
    """
    height, width = shape
    count = 0
    for k in range(centres.shape[1]):
        y, x = centres[0, k], centres[1, k]
        first_row = max(int(y - 2 * step), 0)
        end_row = min(int(y + 2 * step + 1), height)
        first_column = max(int(x - 2 * step), 0)
        end_column = min(int(x + 2 * step + 1), width)
        beside = first_row >= top + _BLOCK * SIDE or end_row <= top
        beside |= first_column >= left + _BLOCK * SIDE or end_column <= left
        if beside:
            continue
        numbers[count] = k
        for c in range(5):
            near[c, count] = centres[c, k]
        near[5, count] = first_row
        near[6, count] = end_row
        near[7, count] = first_column
        near[8, count] = end_column
        count += 1
    return count


@numba.njit("void(i2[:,::1], f4, i8, i8, f4[:,::1])", cache=True, nogil=True)
def _stretch_box(
    colours: np.ndarray, stretch: np.float32, rows: int, columns: int, box: np.ndarray
) -> None:
    """Least and greatest row, column and colours of a tile, f32 [5, 2]; places count from its corner."""
    box[:2, 0] = 0
    box[0, 1] = rows - 1
    box[1, 1] = columns - 1
    for c in range(3):
        box[2 + c, 0] = colours[c, 0] * stretch
        box[2 + c, 1] = colours[c, 1] * stretch


@numba.njit(
    "b1(i2[:,:,:,::1], i2[:,:,:,::1], i8[:,:,::1], i2[:,:,::1], f4[:,::1], i8, f8, UniTuple(i8, 2), i8[:,::1])",
    cache=True,
    nogil=True,
)
def _assign(
    tiles: np.ndarray,
    boxes: np.ndarray,
    totals: np.ndarray,
    labels: np.ndarray,
    centres: np.ndarray,
    step: int,
    stretch: float,
    shape: tuple[int, int],
    sums: np.ndarray,
) -> bool:
    """Give each pixel that lies in a window the nearest centre and sum what each has; tells whether one changed."""
    height, width = shape
    down, across = tiles.shape[:2]
    most = centres.shape[1]
    near = np.empty((9, most), np.float32)
    numbers = np.empty(most, np.int64)
    asked = np.empty(most, np.int64)
    bounds = np.empty((2, most), np.float32)
    part = np.empty(2 * SUMS, np.int64)
    box = np.empty((5, 2), np.float32)
    tile = new_tile()
    changed = False
    blocks_across = (across + _BLOCK - 1) // _BLOCK
    blocks = (down + _BLOCK - 1) // _BLOCK * blocks_across
    for block in range(blocks):
        first = block // blocks_across * _BLOCK
        second = block % blocks_across * _BLOCK
        count = _around(centres, step, first * SIDE, second * SIDE, shape, near, numbers)
        for i in range(first, min(first + _BLOCK, down)):
            for j in range(second, min(second + _BLOCK, across)):
                top, left = i * SIDE, j * SIDE
                rows, columns = min(SIDE, height - top), min(SIDE, width - left)
                _stretch_box(boxes[i, j], np.float32(stretch), rows, columns, box)
                own = labels[i, j]
                load(tiles[i, j].reshape(-1), own, np.float32(stretch), tile)
                size = (rows, columns)
                found = ask_all(near, numbers, count, top, left, size, box, bounds, tile, asked)
                changed |= store(tile, own)
                add(tiles[i, j], own, totals[i, j], asked[:found], top, left, part, sums)
    return changed

"""An image in square tiles: what one iteration of the clustering asks a tile for lies together, and is small.

Colours are whole numbers, 1/256 of a unit of Lab: a tile takes 2 KB, an image of nuScenes less than 12 MB, and sums are
exact in whatever order they are made.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["OUTSIDE", "PIXELS", "SIDE", "UNIT", "boxes_of", "cut", "empty_labels", "joined"]

SIDE = 16  # px, of a tile
PIXELS = SIDE * SIDE
UNIT = 256  # steps of a colour in one unit of Lab, whose values of sRGB lie within 128 of 0
OUTSIDE = -1  # label of what lies in a tile but beyond the image


def cut(colours: np.ndarray) -> np.ndarray:
    """Cut an image into tiles, beyond its end the last pixels go on.

    Args:
        colours: f32 [3, H, W] Lab.

    Returns:
        i16 [down, across, 3, PIXELS], in units of 1/UNIT.
    """
    height, width = colours.shape[1:]
    tiles = np.empty((-(-height // SIDE), -(-width // SIDE), 3, PIXELS), np.int16)
    _cut(colours, tiles)
    return tiles


@numba.njit("void(f4[:,:,::1], i2[:,:,:,::1])", cache=True, nogil=True)
def _cut(colours: np.ndarray, tiles: np.ndarray) -> None:
    _, height, width = colours.shape
    down, across = tiles.shape[:2]
    line = np.empty(across * SIDE, np.int16)
    for y in range(down * SIDE):
        first = y % SIDE * SIDE
        for c in range(3):
            row = colours[c, min(y, height - 1)]
            for x in range(width):
                line[x] = np.int16(np.floor(row[x] * np.float32(UNIT) + np.float32(0.5)))
            line[width:] = line[width - 1]
            for j in range(across):
                tile = tiles[y // SIDE, j, c]
                for x in range(SIDE):
                    tile[first + x] = line[j * SIDE + x]


@numba.njit("void(i2[:,:,:,::1], i2[:,:,:,::1])", cache=True, nogil=True)
def _bound(tiles: np.ndarray, boxes: np.ndarray) -> None:
    for i in range(tiles.shape[0]):
        for j in range(tiles.shape[1]):
            for c in range(3):
                values = tiles[i, j, c]
                low = high = values[0]
                for k in range(PIXELS):
                    low = min(low, values[k])
                    high = max(high, values[k])
                boxes[i, j, c, 0] = low
                boxes[i, j, c, 1] = high


def boxes_of(tiles: np.ndarray) -> np.ndarray:
    """Least and greatest of each tile's colours, i16 [down, across, 3, 2]."""
    boxes = np.empty((*tiles.shape[:3], 2), np.int16)
    _bound(tiles, boxes)
    return boxes


def empty_labels(height: int, width: int) -> np.ndarray:
    """Label 0 of each pixel of an image and OUTSIDE around it, i16 [down, across, PIXELS]."""
    down, across = -(-height // SIDE), -(-width // SIDE)
    whole = np.full((down * SIDE, across * SIDE), OUTSIDE, np.int16)
    whole[:height, :width] = 0
    parts = whole.reshape(down, SIDE, across, SIDE)
    return np.ascontiguousarray(parts.swapaxes(1, 2)).reshape(down, across, PIXELS)


def joined(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """An image of the labels of tiles, i32 [H, W]."""
    down, across = labels.shape[:2]
    parts = labels.reshape(down, across, SIDE, SIDE).swapaxes(1, 2)
    whole = parts.reshape(down * SIDE, across * SIDE)
    return np.ascontiguousarray(whole[:height, :width].astype(np.int32))

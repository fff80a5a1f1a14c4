"""Simple linear iterative clustering (Achanta et al., "SLIC superpixels", TPAMI 34(11), 2012).

k-means in colour (CIE Lab) and place, from seeds on a grid, each looked for within two grid steps; then pieces that
hang together and are large enough become the superpixels. Grid, window, seeds without a colour and sizes of pieces are
those of scikit-image 0.18, with whose superpixels SLidR was trained. From 0.19 on, scikit-image stretches the values of
each image to 0..1 first, which changes the superpixels of dark images: ``rescale``.
"""

from __future__ import annotations

import numba
import numpy as np
from pydantic import Field

from core.config import Section
from core.data.superpixels.clusters import cluster
from core.data.superpixels.colours import lab, smooth

__all__ = ["SlicConfig", "connect", "seed_grid", "slic"]

_SMALLEST = 0.5  # of a superpixel, in shares of the mean size
_LARGEST = 3.0


class SlicConfig(Section):
    """How superpixels are made; the defaults are those of SLidR's MinkUNet."""

    segments: int = Field(
        150, ge=1, le=20_000, description="superpixels wanted; SLidR: 150, with a VoxelNet 30"
    )
    compactness: float = Field(
        6.0,
        gt=0,
        description="distance in colour (Lab) that weighs as much as one step of the grid",
    )
    sigma: float = Field(
        3.0, ge=0, le=1000, description="px, Gaussian that smooths first; 0 = none"
    )
    iterations: int = Field(10, ge=1, description="most iterations")
    rescale: bool = Field(
        False,
        description="stretch the values of each image to 0..1 first, as scikit-image does from 0.19 on",
    )


def slic(image: np.ndarray, config: SlicConfig) -> np.ndarray:
    """Divide an image into superpixels.

    Args:
        image: u8 [H, W, 3] RGB.

    Returns:
        i32 [H, W], labels from 0 on without a gap, numbered as rows are read.
    """
    colours = lab(image, rescale=config.rescale)
    if config.sigma > 0:
        colours = smooth(colours, config.sigma)
    rows, columns, step = seed_grid(image.shape[:2], config.segments)
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    centres = np.zeros((len(places), 5))
    centres[:, :2] = places
    colours /= config.compactness
    nearest = cluster(colours, centres, step, config.iterations)
    mean = image.shape[0] * image.shape[1] / len(centres)
    return connect(nearest, int(_SMALLEST * mean), int(_LARGEST * mean))


def seed_grid(shape: tuple[int, ...], segments: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Rows and columns of the seeds, and the step between them, in pixels.

    Where the rounded step would give more than ``segments``, the next larger one is taken that does not.

    Args:
        shape: rows and columns of the image.
    """
    wanted = segments
    while True:
        row, column = _step(shape, wanted)
        rows = np.arange(int(row // 2), shape[0], max(round(row), 1))
        columns = np.arange(int(column // 2), shape[1], max(round(column), 1))
        if len(rows) * len(columns) <= segments or wanted == 1:
            return rows, columns, max(round(max(row, column)), 1)
        wanted -= 1


def _step(shape: tuple[int, ...], segments: int) -> tuple[float, float]:
    """Px, along rows and columns: squares, but where a side is shorter than one."""
    height, width = shape[:2]
    area = height * width
    if area <= segments:
        return 1.0, 1.0
    side = float((area / segments) ** 0.5)
    if min(height, width) >= side:
        return side, side
    along = max(height, width) / segments
    return (height, along) if height < width else (along, width)


@numba.njit(
    "Tuple((i8, i4))(i4[:,::1], i4[:,::1], i8[:,::1], i8, i8, i4, i8)", cache=True, nogil=True
)
def _flood(
    labels: np.ndarray,
    found: np.ndarray,
    queue: np.ndarray,
    y: int,
    x: int,
    new: np.int32,
    largest: int,
) -> tuple[int, np.int32]:
    """Give the piece that holds a pixel the number ``new``, breadth first; its pixels and a neighbour's number."""
    height, width = labels.shape
    neighbour = np.int32(0)
    found[y, x] = new
    queue[0, 0] = y
    queue[0, 1] = x
    size = 1
    visited = 0
    while visited < size < largest:
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            v = queue[visited, 0] + dy
            u = queue[visited, 1] + dx
            if not (0 <= v < height and 0 <= u < width):
                continue
            if labels[v, u] == labels[y, x] and found[v, u] == -1:
                found[v, u] = new
                queue[size, 0] = v
                queue[size, 1] = u
                size += 1
                if size >= largest:
                    break
            elif found[v, u] >= 0 and found[v, u] != new:
                neighbour = found[v, u]
        visited += 1
    return size, neighbour


@numba.njit("i4[:,::1](i4[:,::1], i8, i8)", cache=True, nogil=True)
def connect(labels: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    """Number the pieces that hang together (4 neighbours) anew, i32 [H, W].

    Args:
        labels: i32 [H, W].
        smallest: px; a smaller piece goes to a neighbour that has its number already, of several the last one met.
        largest: px; what is left of a piece of so many is a piece of its own.
    """
    height, width = labels.shape
    found = np.full((height, width), np.int32(-1))
    queue = np.empty((max(largest, 1), 2), np.int64)
    new = np.int32(0)
    for y in range(height):
        for x in range(width):
            if found[y, x] >= 0:
                continue
            size, neighbour = _flood(labels, found, queue, y, x, new, largest)
            if size >= smallest:
                new += np.int32(1)
                continue
            for i in range(size):
                found[queue[i, 0], queue[i, 1]] = neighbour
    return found

"""Simple linear iterative clustering (Achanta et al., "SLIC superpixels", TPAMI 34(11), 2012).

k-means in colour (CIE Lab) and place, from seeds on a grid, each looked for within two grid steps; then pieces that
hang together and are large enough become the superpixels. Grid, window, seeds without a colour and sizes of pieces are
those of scikit-image 0.18, with whose superpixels SLidR was trained. From 0.19 on, scikit-image stretches the values of
each image to 0..1 first, which changes the superpixels of dark images: ``rescale``.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from core.config import Section
from core.data.superpixels.clusters import cluster
from core.data.superpixels.colours import lab, smooth
from core.data.superpixels.pieces import connect

__all__ = ["SlicConfig", "seed_grid", "slic"]

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
    nearest = cluster(colours, places, step, config.compactness, config.iterations)
    mean = image.shape[0] * image.shape[1] / len(places)
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

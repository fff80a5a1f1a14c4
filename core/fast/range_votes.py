"""Votes of a point's neighbours in a range image (Milioto et al., "RangeNet++", IROS 2019, algorithm 1)."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from core.fast import plain
from core.fast.plain import closeness

__all__ = ["neighbour_votes"]


def neighbour_votes(
    ranges: Tensor,
    classes: Tensor,
    pixels: Tensor,
    own: Tensor,
    *,
    num_classes: int,
    search: int,
    neighbours: int,
    sigma: float,
    cutoff: float,
) -> Tensor:
    """Count the classes of the pixels about each point that lie at nearly its range.

    Of the ``search`` x ``search`` window about a point's pixel, whose middle has the point's own range, the
    ``neighbours`` pixels of smallest ``|range - own| (1 - g)`` vote, as far as that is at most ``cutoff``; g is a
    Gaussian over the window with the sum 1. Of equals the first in reading order counts. Empty pixels have no vote.

    Args:
        ranges: f32 [B, H, W] m, infinite where a pixel is empty. classes: i64 [B, H, W].
        pixels: i64 [N, 3], image, row and column of each point. own: f32 [N] m, its range.
        search: odd, px. sigma: px, of the Gaussian. cutoff: m.

    Returns:
        f32 [N, num_classes], numbers of votes.
    """
    if ranges.device.type != "cpu":
        return plain.neighbour_votes(
            ranges,
            classes,
            pixels,
            own,
            num_classes=num_classes,
            search=search,
            neighbours=neighbours,
            sigma=sigma,
            cutoff=cutoff,
        )
    votes = torch.zeros(len(pixels), num_classes)
    _count(
        ranges.contiguous().numpy(),
        classes.contiguous().numpy(),
        pixels.contiguous().numpy(),
        own.contiguous().numpy(),
        closeness(search, sigma).numpy(),
        min(neighbours, search * search),
        cutoff,
        votes.numpy(),
    )
    return votes


@numba.njit(
    "void(f4[:,:,::1], i8[:,:,::1], i8[:,::1], f4[::1], f4[:,::1], i8, f4, f4[:,::1])",
    cache=True,
    nogil=True,
)
def _count(
    ranges: np.ndarray,
    classes: np.ndarray,
    pixels: np.ndarray,
    own: np.ndarray,
    weight: np.ndarray,
    neighbours: int,
    cutoff: float,
    votes: np.ndarray,
) -> None:
    """One pass over each point's window that keeps the nearest so far, in order."""
    _, height, width = ranges.shape
    half = weight.shape[0] // 2
    near = np.empty(neighbours, np.float32)
    names = np.empty(neighbours, np.int64)
    for i in range(pixels.shape[0]):
        image, row, column = pixels[i, 0], pixels[i, 1], pixels[i, 2]
        found = 0
        for y in range(max(row - half, 0), min(row + half + 1, height)):
            for x in range(max(column - half, 0), min(column + half + 1, width)):
                away = abs(ranges[image, y, x] - own[i])
                if y == row and x == column:
                    away = np.float32(0)
                away = away * weight[y - row + half, x - column + half]
                if away > cutoff:  # those that have no vote are no nearer than those that have one
                    continue
                if found == neighbours and away >= near[found - 1]:
                    continue
                place = min(found, neighbours - 1)
                while place > 0 and near[place - 1] > away:
                    near[place] = near[place - 1]
                    names[place] = names[place - 1]
                    place -= 1
                near[place] = away
                names[place] = classes[image, y, x]
                found = min(found + 1, neighbours)
        for k in range(found):
            votes[i, names[k]] += 1

"""SLIC step by step, as the paper and scikit-image 0.18 state it; plain NumPy in float64, no compiled code."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import correlate1d, label

__all__ = ["clusters", "connected", "pieces", "smoothed"]


def smoothed(colours: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian to four standard deviations along rows and columns; the image goes on as its mirror."""
    reach = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    weights = np.exp(-0.5 * (reach / sigma) ** 2)
    weights /= weights.sum()
    along_rows = correlate1d(colours, weights, axis=0, mode="reflect")
    return correlate1d(along_rows, weights, axis=1, mode="reflect")


def clusters(colours: np.ndarray, seeds: np.ndarray, step: int, compactness: float) -> np.ndarray:
    """i64 [H, W], the nearest centre of each pixel after at most ten rounds.

    Args:
        colours: f64 [H, W, 3] Lab. seeds: [K, 2] rows and columns.
    """
    height, width = colours.shape[:2]
    v, u = np.mgrid[:height, :width]
    centres = np.column_stack([seeds, np.zeros((len(seeds), 3))]).astype(np.float64)
    before = None
    for _ in range(10):
        best = np.full((height, width), np.inf)
        nearest = np.zeros((height, width), np.int64)
        for k, (row, column, *colour) in enumerate(centres):
            seen = (v >= np.floor(max(row - 2 * step, 0))) & (v < np.floor(row + 2 * step + 1))
            seen &= (u >= np.floor(max(column - 2 * step, 0))) & (
                u < np.floor(column + 2 * step + 1)
            )
            place = ((v - row) ** 2 + (u - column) ** 2) / step**2
            apart = place + ((colours - colour) ** 2).sum(2) / compactness**2
            better = seen & (apart < best)
            best[better], nearest[better] = apart[better], k
        if before is not None and (nearest == before).all():
            break
        before = nearest
        for k in range(len(centres)):
            own = nearest == k
            if own.any():
                centres[k] = [v[own].mean(), u[own].mean(), *colours[own].mean(0)]
    return nearest


def pieces(labels: np.ndarray) -> int:
    """How many pieces (4 neighbours) the labels fall into."""
    return sum(label(labels == value)[1] for value in np.unique(labels))


def connected(labels: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    """Pieces numbered anew, pixel by pixel: breadth first to the right, left, below and above."""
    found = np.full(labels.shape, -1)
    new = 0
    for start in np.ndindex(*labels.shape):
        if found[start] >= 0:
            continue
        found[start] = new
        piece = [start]
        neighbour = 0
        for y, x in piece:
            if len(piece) >= largest:
                break
            for place in ((y, x + 1), (y, x - 1), (y + 1, x), (y - 1, x)):
                inside = 0 <= place[0] < labels.shape[0] and 0 <= place[1] < labels.shape[1]
                if not inside:
                    continue
                if labels[place] == labels[start] and found[place] == -1:
                    found[place] = new
                    piece.append(place)
                    if len(piece) >= largest:
                        break
                elif found[place] not in (-1, new):
                    neighbour = found[place]
        if len(piece) >= smallest:
            new += 1
            continue
        for place in piece:
            found[place] = neighbour
    return found

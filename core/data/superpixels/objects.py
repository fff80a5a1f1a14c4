"""Superpixels on one object of the scan, merged into one region.

Colour breaks a car into body, windows and tyres, and contrastive learning then drives these parts of one thing apart.
The scan tells that they hang together: points above the ground form objects, and superpixels beside each other that lie
on the same object become one. An experiment of this project; no published method has this form.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from core.config import Section

__all__ = ["ObjectConfig", "find_objects", "merge_on_objects"]

NO_OBJECT = -1


class ObjectConfig(Section):
    """What counts as an object of a scan, and when a superpixel lies on one."""

    ground: float = Field(
        0.3,
        gt=0,
        description="m above the lowest point of its square up to which a point is ground",
    )
    square: float = Field(2.0, gt=0, description="m, side of these squares")
    gap: float = Field(
        0.4, gt=0, description="m, side of cells; points in cells that touch are one object"
    )
    points: int = Field(10, ge=1, description="fewest points of an object")
    extent: float = Field(
        8.0, gt=0, description="m along x or y beyond which a thing, e.g. a building, is no object"
    )
    share: float = Field(
        0.5, ge=0, lt=1, description="a superpixel lies on an object that has more of its points"
    )


def find_objects(xyz: np.ndarray, config: ObjectConfig) -> np.ndarray:
    """Group the points above the ground by what they touch.

    Args:
        xyz: f32 [N, 3] m, z upwards.

    Returns:
        i64 [N], the object of each point from 0 on; ``NO_OBJECT`` on the ground, on what is too small or too large, and
        where a coordinate is not finite.
    """
    objects = np.full(len(xyz), NO_OBJECT, np.int64)
    finite = np.flatnonzero(np.isfinite(xyz).all(1))
    above = finite[_height(xyz[finite], config.square) > config.ground]
    if not len(above):
        return objects
    points = xyz[above].astype(np.float64)
    cells, of_point = np.unique(np.floor(points / config.gap), axis=0, return_inverse=True)
    touching = cKDTree(cells).query_pairs(1.5, p=np.inf, output_type="ndarray")
    found = _components(touching, len(cells))[of_point.reshape(-1)]
    kept = _size(found, points) <= config.extent
    kept &= np.bincount(found) >= config.points
    number = np.where(kept, np.cumsum(kept) - 1, NO_OBJECT)
    objects[above] = number[found]
    return objects


def merge_on_objects(
    labels: np.ndarray, places: np.ndarray, objects: np.ndarray, config: ObjectConfig
) -> np.ndarray:
    """Join superpixels that touch in the image and lie on the same object.

    Args:
        labels: int [H, W], superpixels from 0 on without a gap. places: int [P, 2], (row, column) px of the points that
            the image shows. objects: i64 [P] of these points.

    Returns:
        i32 [H, W], labels from 0 on without a gap, in the order of each region's first superpixel: never more of them.
    """
    count = int(labels.max()) + 1
    lies_on = _lies_on(labels[places[:, 0], places[:, 1]], objects, count, config.share)
    beside = _beside(labels)
    same = lies_on[beside[:, 0]] == lies_on[beside[:, 1]]
    joined = beside[same & (lies_on[beside[:, 0]] != NO_OBJECT)]
    region = _components(joined, count)
    _, first, region = np.unique(region, return_index=True, return_inverse=True)
    order = np.empty(len(first), np.int32)
    order[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return order[region.reshape(-1)][labels]


def _height(xyz: np.ndarray, side: float) -> np.ndarray:
    """Of each point above the lowest one of its square, m."""
    squares = np.floor(xyz[:, :2].astype(np.float64) / side)
    _, square = np.unique(squares, axis=0, return_inverse=True)
    square = square.reshape(-1)
    lowest = np.full(int(square.max(initial=-1)) + 1, np.inf, np.float32)
    np.minimum.at(lowest, square, xyz[:, 2])
    return xyz[:, 2] - lowest[square]


def _size(found: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Of each group, the longer side of its box from above, m."""
    groups = int(found.max()) + 1
    low = np.full((groups, 2), np.inf)
    high = np.full((groups, 2), -np.inf)
    np.minimum.at(low, found, points[:, :2])
    np.maximum.at(high, found, points[:, :2])
    longer: np.ndarray = (high - low).max(1)
    return longer


def _lies_on(labels: np.ndarray, objects: np.ndarray, count: int, share: float) -> np.ndarray:
    """The object that more than a share of each superpixel's points belong to, i64 [count]."""
    lies_on = np.full(count, NO_OBJECT, np.int64)
    pairs, votes = np.unique(np.stack([labels, objects], 1), axis=0, return_counts=True)
    most = np.lexsort((-pairs[:, 1], votes))  # of as many points the lower number comes last
    label, voted = pairs[most].T
    lies_on[label] = voted  # the last one stays
    reached = np.zeros(count, np.int64)
    reached[label] = votes[most]
    shown = np.bincount(labels, minlength=count)
    lies_on[reached <= share * shown] = NO_OBJECT
    return lies_on


def _beside(labels: np.ndarray) -> np.ndarray:
    """Pairs of superpixels with pixels side by side or one above the other, i64 [E, 2]."""
    across = np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()], 1)
    down = np.stack([labels[:-1].ravel(), labels[1:].ravel()], 1)
    pairs = np.concatenate([across, down]).astype(np.int64)
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], 1)
    return np.unique(pairs, axis=0)


def _components(edges: np.ndarray, count: int) -> np.ndarray:
    """The component of each of ``count`` nodes, from 0 on; edges: int [E, 2]."""
    edges = edges.reshape(-1, 2)
    present = np.ones(len(edges), bool)
    graph = coo_array((present, (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    found: np.ndarray = component
    return found

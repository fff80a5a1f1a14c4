"""What every partition is: a typed section that says in which cell each point lies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numba
import numpy as np
from pydantic import Field

from core.config import Section
from core.contracts import Grouping, Sensor
from core.errors import UserError

__all__ = ["EXACT", "PartitionSection", "group"]

EXACT = 1 << 22  # cells from the origin; beyond, quotients in float32 are too coarse to be rounded


class PartitionSection(Section, ABC):
    """Base of the ``data.partition:`` sections; see :class:`core.contracts.Partition`.

    A subclass has a literal field ``name``, ``axes`` and :meth:`index`; the rest has defaults. Coordinates are not
    negative and below :data:`core.sparse.MAX_SPAN`; ``relative`` ones count from the smallest of the view.
    """

    axes: ClassVar[int] = 3
    relative: ClassVar[bool] = False

    name: str = Field(description="the partition")

    @abstractmethod
    def index(self, xyz: np.ndarray, sensor: Sensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Say in which cell each point lies.

        Args:
            xyz: f32 [N, 3] m. sensor: its origin is in the frame of ``xyz``.

        Returns:
            i32 [N, axes], and bool [N] whether the point has a cell (None = all have).
        """

    def rank(self, xyz: np.ndarray, sensor: Sensor) -> np.ndarray | None:
        """F32 [N]: of a cell's points the lowest represents it; None = the first, as stored."""
        return None

    @abstractmethod
    def centres(self, coords: np.ndarray, sensor: Sensor) -> np.ndarray:
        """F32 [M, 3] m, the centres of cells i32 [M, axes]."""

    def group(self, xyz: np.ndarray, sensor: Sensor) -> Grouping:
        """The occupied cells, numbered by first appearance, and the points in them.

        Raises:
            UserError: the points do not fit into the partition.
        """
        coords, inside = self.index(xyz, sensor)
        if len(coords) != len(xyz):
            raise UserError(
                f"index gives {len(coords)} cells for {len(xyz)} points",
                where=f"partition {self.name}",
            )
        grouping = group(coords, inside)
        rank = self.rank(xyz, sensor)
        if rank is None or not len(grouping):
            return grouping
        if rank.shape != (len(xyz),):
            raise UserError(
                f"rank gives {list(rank.shape)} for {len(xyz)} points",
                where=f"partition {self.name}",
            )
        best = _lowest(grouping.of_point, rank.astype(np.float32), len(grouping))
        return Grouping(grouping.coords, best, grouping.of_point)


def group(coords: np.ndarray, inside: np.ndarray | None = None) -> Grouping:
    """Group points by their cells; cells are numbered by first appearance, the first point represents its cell.

    So ``point`` ascends, and a keyframe's points, which come first, represent their cells before those of sweeps.

    Args:
        coords: i32 [N, D], D = 2 or 3, each below 2^21.
        inside: bool [N], the point has a cell; None = all have.

    Raises:
        UserError: another shape, or a coordinate out of that range: its key would be another cell's.
    """
    if coords.ndim != 2 or coords.shape[1] not in (2, 3) or coords.dtype.kind not in "iu":
        raise UserError(
            f"cells are {coords.dtype} {list(coords.shape)}; expected integers [N, 2] or [N, 3]",
            where="partition",
        )
    axes = coords.shape[1]
    rows = None if inside is None or inside.all() else np.flatnonzero(inside)
    chosen = coords if rows is None else coords[rows]
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < 1 << 21:
        raise UserError(
            f"cells run from {chosen.min()} to {chosen.max()}; 0 to {(1 << 21) - 1} are possible",
            where="partition",
        )
    if axes == 2:
        chosen = np.column_stack([chosen, np.zeros(len(chosen), np.int32)])
    found, first, inverse = _first_of_each(np.ascontiguousarray(chosen, np.int32))
    found = np.ascontiguousarray(found[:, :axes])
    if rows is None:
        return Grouping(found, first, inverse)
    of_point = np.full(len(coords), -1, np.int64)
    of_point[rows] = inverse
    return Grouping(found, rows[first], of_point)


def _first_of_each(coords: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct rows of i32 [N, 3], the first row that has each, and the number of each row's."""
    if not len(coords):
        return np.zeros((0, 3), np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    slots = 1 << int(2 * len(coords) - 1).bit_length()
    keys = np.full(slots, np.int64(-1))
    found, first, inverse, count = _hash_rows(coords, keys, np.empty(slots, np.int32))
    return found[:count].copy(), first[:count].copy(), inverse


@numba.njit(
    "Tuple((i4[:,::1], i8[::1], i8[::1], i8))(i4[:,::1], i8[::1], i4[::1])", cache=True, nogil=True
)
def _hash_rows(
    index: np.ndarray, keys: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.signedinteger]:
    """Open addressing with linear probing; ``keys`` starts empty and has a power of two of slots, over half free."""
    n, mask = index.shape[0], np.uint64(keys.shape[0] - 1)
    coords = np.empty((n, 3), np.int32)
    first = np.empty(n, np.int64)
    inverse = np.empty(n, np.int64)
    count = np.int64(0)
    for i in range(n):
        key = (np.int64(index[i, 0]) << 42) | (np.int64(index[i, 1]) << 21) | np.int64(index[i, 2])
        # Fibonacci hashing: the upper half of the product is well mixed.
        mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
        slot = (mixed >> np.uint64(32)) & mask
        while keys[slot] != -1 and keys[slot] != key:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] == -1:
            keys[slot] = key
            rows[slot] = count
            coords[count] = index[i]
            first[count] = i
            count += 1
        inverse[i] = rows[slot]
    return coords, first, inverse, count


@numba.njit("i8[::1](i8[::1], f4[::1], i8)", cache=True, nogil=True)
def _lowest(of_point: np.ndarray, rank: np.ndarray, cells: int) -> np.ndarray:
    """Of each cell's points the one of lowest rank, the first of equals."""
    best = np.full(cells, -1, np.int64)
    for i in range(of_point.shape[0]):
        cell = of_point[i]
        if cell >= 0 and (best[cell] < 0 or rank[i] < rank[best[cell]]):
            best[cell] = i
    return best

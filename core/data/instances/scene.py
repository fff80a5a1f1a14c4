"""A scan as the paste augmentation sees it: points by 5 m cell, ground cells, free places, shadows.

Compiled loops over plain arrays; :mod:`core.data.instances.paste` says what they are for.
"""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["CELL", "MIN_CELL_POINTS", "REACH", "Scene", "in_shadow", "place"]

CELL = 5.0  # m, edge of a ground cell
MIN_CELL_POINTS = 20  # of one ground class, for its cell to count
REACH = 150.0  # m, along x and y; nothing is put farther out
MAX_THINGS = 0.001  # points of other things inside an object's box, per point of the object
MAX_OTHERS = 0.05  # the same for all other points
_SIDE = int(2 * REACH / CELL)  # cells along x and y
_COLUMNS = 720  # of a shadow, 0.5 degrees wide: wider than the step of a scanner, so that no column stays empty
_MARGIN = 0.0035  # slope, 0.2 degrees: less than the beams are apart


class Scene:
    """Points sorted into cells, and the places where something may stand.

    Attributes:
        points: f32 [N, 3] m. is_thing: bool [N]. order: i8 [M], points within reach by cell. start: i8 [cells + 1],
            where each cell begins in it.
    """

    def __init__(
        self, points: np.ndarray, labels: np.ndarray, things: np.ndarray, ground: np.ndarray
    ) -> None:
        """Sort.

        Args:
            points: f32 [N, 3] m. labels: u8 [N]. things: bool [256], the train id is a thing.
            ground: i1 [256], the train id's number among the ground classes, -1 = none of them.

        Raises:
            ValueError: these lengths differ; the loops below check none.
        """
        if len(labels) != len(points) or len(ground) != 256:
            raise ValueError(
                f"{len(labels)} labels and {len(ground)} grounds for {len(points)} points"
            )
        self.points = np.ascontiguousarray(points, np.float32)
        self.is_thing = things[labels]
        grounds = int(ground.max(initial=-1)) + 1
        self.order, self.start, sums = _sort(self.points, labels, ground, grounds)
        self._cells: list[np.ndarray] = []
        for group in sums:
            group = group[group[:, 3] >= MIN_CELL_POINTS]
            self._cells.append(group[:, :3] / group[:, 3:])

    def places(self, grounds: np.ndarray, distance: float, count: int) -> np.ndarray:
        """Find the cells that are most nearly ``distance`` m away.

        Args:
            grounds: ground classes that count. distance: m, planar. count: of cells, at most.

        Returns:
            the cells' mean points, f64 [P, 3] m, by difference in distance; equal differences keep the order of
            classes and cells.
        """
        cells = np.concatenate([np.zeros((0, 3)), *(self._cells[g] for g in grounds)])
        difference = np.abs(np.hypot(cells[:, 0], cells[:, 1]) - distance)
        return cells[np.argsort(difference, kind="stable")[:count]]


@numba.njit(
    "Tuple((i8[::1], i8[::1], f8[:,:,::1]))(f4[:,::1], u1[::1], i1[::1], i8)",
    cache=True,
    nogil=True,
)
def _sort(
    points: np.ndarray, labels: np.ndarray, ground: np.ndarray, grounds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counting sort by cell, and per ground class and cell the sums of x, y, z and the number of points."""
    cell = np.full(points.shape[0], -1, np.int64)
    start = np.zeros(_SIDE * _SIDE + 1, np.int64)
    sums = np.zeros((grounds, _SIDE * _SIDE, 4))
    for i in range(points.shape[0]):
        x = np.float64(points[i, 0]) + REACH
        y = np.float64(points[i, 1]) + REACH
        if not (0 <= x < 2 * REACH and 0 <= y < 2 * REACH):
            continue
        c = np.int64(x / CELL) * _SIDE + np.int64(y / CELL)
        cell[i] = c
        start[c + 1] += 1
        g = ground[labels[i]]
        if g >= 0:
            for axis in range(3):
                sums[g, c, axis] += points[i, axis]
            sums[g, c, 3] += 1
    start = np.cumsum(start)
    fill = start[:-1].copy()
    order = np.empty(start[-1], np.int64)
    for i in range(points.shape[0]):
        if cell[i] >= 0:
            order[fill[cell[i]]] = i
            fill[cell[i]] += 1
    return order, start, sums


def place(
    scene: Scene,
    shape: np.ndarray,
    anchor: np.ndarray,
    places: np.ndarray,
    shifts: np.ndarray,
    boxes: np.ndarray,
) -> np.ndarray | None:
    """Put an object on the first free place.

    For each place and each shift in turn the object is turned about z by the difference in azimuth, its anchor set
    on the shifted place, and its axis-aligned box looked into.

    Args:
        shape: f32 [n, 3] m, where it was recorded. anchor: [3] m, the point of it that is set on the place.
        places: f64 [P, 3] m. shifts: f64 [P, T, 3] m. boxes: f64 [B, 2, 3] m, of objects put in before.

    Returns:
        f32 [n, 3] m, or None if no place is free.
    """
    found, moved = _place(
        np.ascontiguousarray(shape),
        anchor.astype(np.float64),
        places,
        shifts,
        boxes,
        scene.points,
        scene.is_thing,
        scene.order,
        scene.start,
    )
    return moved if found else None


@numba.njit(cache=True, nogil=True)
def _free(
    low: np.ndarray,
    high: np.ndarray,
    count: int,
    boxes: np.ndarray,
    points: np.ndarray,
    is_thing: np.ndarray,
    order: np.ndarray,
    start: np.ndarray,
) -> bool:
    """The box is within reach, not around the sensor, and meets no other object and few enough points."""
    # Written so that NaN is out of reach, too.
    if not (-REACH <= low[0] <= high[0] < REACH and -REACH <= low[1] <= high[1] < REACH):
        return False
    if low[0] <= 0 <= high[0] and low[1] <= 0 <= high[1]:
        return False
    for b in range(boxes.shape[0]):
        apart = False
        for axis in range(3):
            apart |= low[axis] > boxes[b, 1, axis] or high[axis] < boxes[b, 0, axis]
        if not apart:
            return False
    things = 0
    others = 0
    first_x = np.int64((low[0] + REACH) / CELL)
    last_x = np.int64((high[0] + REACH) / CELL)
    first_y = np.int64((low[1] + REACH) / CELL)
    last_y = np.int64((high[1] + REACH) / CELL)
    for cx in range(first_x, last_x + 1):
        row = cx * _SIDE
        for k in range(start[row + first_y], start[row + last_y + 1]):
            i = order[k]
            x, y, z = points[i, 0], points[i, 1], points[i, 2]
            if low[0] <= x <= high[0] and low[1] <= y <= high[1] and low[2] <= z <= high[2]:
                if is_thing[i]:
                    things += 1
                else:
                    others += 1
        if things > MAX_THINGS * count or others > MAX_OTHERS * count:
            return False
    return True


@numba.njit(
    "Tuple((b1, f4[:,::1]))(f4[:,::1], f8[::1], f8[:,::1], f8[:,:,::1], f8[:,:,::1], f4[:,::1], b1[::1], i8[::1],"
    " i8[::1])",
    cache=True,
    nogil=True,
)
def _place(
    shape: np.ndarray,
    anchor: np.ndarray,
    places: np.ndarray,
    shifts: np.ndarray,
    boxes: np.ndarray,
    points: np.ndarray,
    is_thing: np.ndarray,
    order: np.ndarray,
    start: np.ndarray,
) -> tuple[bool, np.ndarray]:
    """Whether a place is free, and the object there."""
    moved = np.empty_like(shape)
    low = np.empty(3)
    high = np.empty(3)
    here = np.arctan2(anchor[1], anchor[0])
    for p in range(shifts.shape[0]):
        for t in range(shifts.shape[1]):
            target = places[p] + shifts[p, t]
            turn = np.arctan2(target[1], target[0]) - here
            cos = np.cos(turn)
            sin = np.sin(turn)
            low[:] = np.inf
            high[:] = -np.inf
            for i in range(shape.shape[0]):
                x = shape[i, 0] - anchor[0]
                y = shape[i, 1] - anchor[1]
                moved[i, 0] = target[0] + cos * x - sin * y
                moved[i, 1] = target[1] + sin * x + cos * y
                moved[i, 2] = target[2] + shape[i, 2] - anchor[2]
                for axis in range(3):
                    low[axis] = min(low[axis], moved[i, axis])
                    high[axis] = max(high[axis], moved[i, axis])
            if _free(low, high, shape.shape[0], boxes, points, is_thing, order, start):
                return True, moved
    return False, moved


@numba.njit(cache=True, nogil=True)
def _direction(x: float, y: float, z: float) -> tuple[int, float, float]:
    """(column, slope, planar distance in m) of a point."""
    distance = np.hypot(np.float64(x), np.float64(y))
    turn = (np.arctan2(np.float64(y), np.float64(x)) + np.pi) / (2 * np.pi)
    column = int(turn * _COLUMNS) % _COLUMNS
    if distance > 0:
        return column, z / distance, distance
    slope = np.inf if z > 0 else -np.inf
    return column, slope, distance


@numba.njit("b1[::1](f4[:,::1], i8[::1], f4[:,::1], i8[::1], i8)", cache=True, nogil=True)
def in_shadow(
    points: np.ndarray, owner: np.ndarray, casters: np.ndarray, caster: np.ndarray, count: int
) -> np.ndarray:
    """Find the points that an object hides from the sensor.

    Seen from the sensor, an object covers in each column of 0.5 degrees the slopes between its lowest and its highest
    point; what lies there beyond its nearest point is hidden.

    Args:
        points: f32 [N, 3] m. owner: i8 [N], the object a point belongs to (never hidden by itself), -1 = none.
        casters: f32 [n, 3] m, all objects' points. caster: i8 [n], 0..count-1.

    Returns:
        bool [N].

    Raises:
        ValueError: lengths differ, or there is no such object.
    """
    if owner.shape[0] != points.shape[0] or caster.shape[0] != casters.shape[0]:
        raise ValueError("each point has one owner, each caster's point one object")
    low = np.full((count, _COLUMNS), np.inf)
    high = np.full((count, _COLUMNS), -np.inf)
    near = np.full((count, _COLUMNS), np.inf)
    covered = np.zeros(_COLUMNS, np.bool_)
    for i in range(casters.shape[0]):
        column, slope, distance = _direction(casters[i, 0], casters[i, 1], casters[i, 2])
        k = caster[i]
        if k < 0 or k >= count:
            raise ValueError("a caster's object lies outside of 0..count-1")
        low[k, column] = min(low[k, column], slope - _MARGIN)
        high[k, column] = max(high[k, column], slope + _MARGIN)
        near[k, column] = min(near[k, column], distance)
        covered[column] = True
    hidden = np.zeros(points.shape[0], np.bool_)
    for i in range(points.shape[0]):
        column, slope, distance = _direction(points[i, 0], points[i, 1], points[i, 2])
        if not covered[column]:
            continue
        for k in range(count):
            if k == owner[i] or distance <= near[k, column]:
                continue
            if low[k, column] <= slope <= high[k, column]:
                hidden[i] = True
    return hidden

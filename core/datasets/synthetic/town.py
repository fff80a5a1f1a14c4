"""The street plan of one scene: streets, the painted ground map, kerbs to build along, and the route of the ego car."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from core.datasets.synthetic.materials import Ground
from core.datasets.synthetic.raycast import RESOLUTION

__all__ = ["HALF_STREET", "LANE", "Kerb", "Route", "Town", "make_town"]

HALF_STREET = 7.5  # m, centre line to kerb: a lane of 4.9 m and a parking lane of 2.6 m
EDGE = 4.9  # m, centre line to parking lane
LANE = 2.3  # m, centre line to the middle of the lane (right-hand traffic)
CORNER = 4.0  # m, radius of the kerb at a crossing
CLEAR = 12.5  # m, no parking nearer to a crossing's centre
STRIP, WALK = 1.3, 3.8  # m from the kerb: end of the planted strip, end of the sidewalk
FRONT = 6.5  # m from the kerb: building line


@dataclass(frozen=True)
class Kerb:
    """One side of one street between two crossings.

    Attributes:
        start: f64 [2] m, its first point in driving direction. forward, outward: unit vectors along it and into the
            block. length: m. yaw: rad.
    """

    start: np.ndarray
    forward: np.ndarray
    outward: np.ndarray
    length: float

    @property
    def yaw(self) -> float:
        """Driving direction, rad."""
        return math.atan2(self.forward[1], self.forward[0])

    def at(self, along: float, offset: float, height: float = 0.0) -> tuple[float, float, float]:
        """World point ``along`` m down the kerb, ``offset`` m into the block (negative: onto the street)."""
        x, y = self.start + along * self.forward + offset * self.outward
        return float(x), float(y), height


@dataclass(frozen=True)
class Town:
    """Street plan and ground.

    Attributes:
        xs, ys: m, centre lines of the streets running north (at x) and east (at y).
        size: m, side of the square map; its corner is the world's origin.
        ground: u8 [S, S] ground materials, rows along y.
        kerbs: all kerbs.
        blocks: (x0, y0, x1, y1, park) of each block, kerb to kerb.
        route: the ego car's closed route.
    """

    xs: np.ndarray
    ys: np.ndarray
    size: float
    ground: np.ndarray
    kerbs: tuple[Kerb, ...]
    blocks: tuple[tuple[float, float, float, float, bool], ...]
    route: Route


class Route:
    """A closed loop of lane-following straights and turns round a rectangle of blocks.

    Args:
        x0, y0, x1, y1: centre lines of the four streets, m.
        left: turn left at every crossing (counter-clockwise), else right.
    """

    def __init__(self, x0: float, y0: float, x1: float, y1: float, left: bool) -> None:
        shift = LANE if left else -LANE  # counter-clockwise traffic keeps outside the centre lines
        radius = 8.0 if left else 6.0
        x0, y0, x1, y1 = x0 - shift, y0 - shift, x1 + shift, y1 + shift
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        if not left:
            corners = [corners[0], corners[3], corners[2], corners[1]]
        turn = math.pi / 2 if left else -math.pi / 2
        self._legs: list[
            tuple[float, float, float, float, float]
        ] = []  # x, y, yaw, length, curvature
        self.turns: list[float] = []  # m along the route, middle of each turn
        travelled = 0.0
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
            yaw = math.atan2(by - ay, bx - ax)
            length = math.hypot(bx - ax, by - ay) - 2 * radius
            cx, cy = ax + radius * math.cos(yaw), ay + radius * math.sin(yaw)
            arc = radius * math.pi / 2
            self._legs.append((cx, cy, yaw, length, 0.0))
            end = (cx + length * math.cos(yaw), cy + length * math.sin(yaw))
            self._legs.append((*end, yaw, arc, turn / arc))
            self.turns.append(travelled + length + arc / 2)
            travelled += length + arc
        self.length = travelled

    def at(self, along: float) -> tuple[float, float, float]:
        """(x, y, yaw) ``along`` m down the route, wrapping round."""
        along %= self.length
        for x, y, yaw, length, bend in self._legs:
            if along <= length:
                if bend == 0.0:
                    return x + along * math.cos(yaw), y + along * math.sin(yaw), yaw
                end = yaw + along * bend
                return (
                    x + (math.sin(end) - math.sin(yaw)) / bend,
                    y - (math.cos(end) - math.cos(yaw)) / bend,
                    end,
                )
            along -= length
        return x, y, yaw


def make_town(rng: np.random.Generator) -> Town:
    """A town of 4 x 4 streets drawn from ``rng``."""
    xs = 56.0 + np.concatenate([[0.0], np.cumsum(rng.uniform(54.0, 66.0, 3))])
    ys = 56.0 + np.concatenate([[0.0], np.cumsum(rng.uniform(54.0, 66.0, 3))])
    size = float(math.ceil((max(xs[-1], ys[-1]) + 56.0) / 4.0) * 4)
    i, j = (int(v) for v in rng.integers(0, 2, 2))
    route = Route(xs[i], ys[j], xs[i + 1], ys[j + 1], left=bool(rng.random() < 0.5))
    parks = rng.random((5, 5)) < 0.2
    edges_x, edges_y = np.concatenate([[0.0], xs, [size]]), np.concatenate([[0.0], ys, [size]])
    blocks = []
    for a in range(5):
        for b in range(5):
            x0, x1 = edges_x[a] + HALF_STREET * (a > 0), edges_x[a + 1] - HALF_STREET * (a < 4)
            y0, y1 = edges_y[b] + HALF_STREET * (b > 0), edges_y[b + 1] - HALF_STREET * (b < 4)
            blocks.append((float(x0), float(y0), float(x1), float(y1), bool(parks[a, b])))
    ground = _paint(xs, ys, size, parks, rng)
    return Town(xs, ys, size, ground, tuple(_kerbs(xs, ys, size)), tuple(blocks), route)


def _kerbs(xs: np.ndarray, ys: np.ndarray, size: float) -> list[Kerb]:
    kerbs = []
    for lines, others, north in ((xs, ys, True), (ys, xs, False)):
        stops = np.concatenate([[-CLEAR], others, [size + CLEAR]])
        for line in lines:
            for low, high in zip(stops[:-1] + CLEAR, stops[1:] - CLEAR):
                for sign in (1.0, -1.0):  # driving towards + or - of the street's axis
                    forward = np.array([0.0, sign]) if north else np.array([sign, 0.0])
                    outward = np.array([forward[1], -forward[0]])  # right of the driving direction
                    begin = low if sign > 0 else high
                    middle = np.array([line, begin]) if north else np.array([begin, line])
                    kerbs.append(
                        Kerb(middle + HALF_STREET * outward, forward, outward, float(high - low))
                    )
    return kerbs


def _paint(
    xs: np.ndarray, ys: np.ndarray, size: float, parks: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The ground map, u8 [S, S], rows along y."""
    cells = round(size / RESOLUTION)
    middle = ((np.arange(cells) + 0.5) * RESOLUTION).astype(np.float32)
    off_x, off_y = (
        _offset(middle, xs)[None, :],
        _offset(middle, ys)[:, None],
    )  # signed, to the nearest centre line
    u, v = np.abs(off_x), np.abs(off_y)
    # depth into the block: distance from the kerb, whose corners are rounded
    cut_x, cut_y = HALF_STREET + CORNER - u, HALF_STREET + CORNER - v
    depth = np.minimum(u, v) - np.float32(HALF_STREET)
    corner = (cut_x > 0) & (cut_y > 0)
    depth = np.where(corner, CORNER - np.hypot(cut_x, cut_y), depth)

    block_x, block_y = np.searchsorted(xs, middle), np.searchsorted(ys, middle)
    ground = np.empty((cells, cells), np.uint8)
    # any four blocks round a crossing have four different strips and fronts, so every ground is met on every way
    quarter = (np.arange(5) % 2)[:, None] * 2 + np.arange(5) % 2
    strips = rng.permutation([Ground.GRASS, Ground.PAVERS, Ground.OCHRE, Ground.DIRT])[quarter]
    fronts = rng.permutation([Ground.GRASS, Ground.SIDEWALK, Ground.PAVERS, Ground.GRASS])[quarter]
    yards = rng.choice([Ground.GRASS, Ground.DIRT, Ground.SIDEWALK], (5, 5))
    fronts[parks], yards[parks] = Ground.GRASS, Ground.GRASS
    pick = np.ix_(block_y, block_x)
    ground[:] = yards.T[pick]
    for reach, material in (
        (FRONT, fronts.T[pick]),
        (WALK, Ground.SIDEWALK),
        (STRIP, strips.T[pick]),
    ):
        np.copyto(
            ground, np.broadcast_to(material, ground.shape).astype(np.uint8), where=depth < reach
        )
    np.copyto(ground, np.uint8(Ground.SIDEWALK), where=(depth < STRIP) & corner)
    np.copyto(ground, np.uint8(Ground.ASPHALT), where=depth < 0)
    _paint_street(ground, off_x, v, middle[:, None], rng.random(len(xs) * 8))
    _paint_street(ground.T, off_y.T, u.T, middle[:, None], rng.random(len(ys) * 8))
    return ground


def _offset(middle: np.ndarray, lines: np.ndarray) -> np.ndarray:
    nearest = np.abs(middle[:, None] - lines[None, :]).argmin(1)
    return (middle - lines[nearest]).astype(np.float32)


def _paint_street(
    ground: np.ndarray,
    off: np.ndarray,
    to_crossing: np.ndarray,
    along: np.ndarray,
    chance: np.ndarray,
) -> None:
    """Parking lanes, markings, zebra crossings and islands of all streets along one axis, in place.

    Args:
        ground: u8 [along, across]. off: f32 [1, across] m from the centre line, signed. to_crossing: f32 [along, 1] m.
        along: f32 [along, 1] m. chance: uniform draws that decide which stretches get what.
    """
    u = np.abs(off)
    stretch = np.cumsum(
        np.diff((to_crossing[:, 0] < CLEAR).astype(np.int8), prepend=0) == 1
    )  # counts crossings passed
    street = np.cumsum(np.diff((u[0] < HALF_STREET).astype(np.int8), prepend=0) == 1)
    draw = chance[(stretch[:, None] * 5 + street[None, :] * 3 + (off > 0)) % len(chance)]
    open_road = to_crossing > CLEAR

    def put(material: Ground, where: np.ndarray) -> None:
        np.copyto(ground, np.uint8(material), where=where)

    put(Ground.PARKING, open_road & (u > EDGE) & (u < HALF_STREET) & (draw < 0.75))
    put(Ground.MARKING, open_road & (u < 0.1) & (along % 6.0 < 3.0))
    put(Ground.MARKING, open_road & (u > EDGE - 0.1) & (u <= EDGE + 0.1) & (draw < 0.45))
    put(
        Ground.MARKING,
        (to_crossing > 8.4) & (to_crossing < 11.0) & (u < HALF_STREET - 0.4) & (off % 1.0 < 0.5),
    )
    put(Ground.MARKING, (to_crossing > 11.6) & (to_crossing < 12.0) & (u < EDGE))
    island = chance[(stretch[:, None] * 7 + street[None, :] * 2) % len(chance)]
    put(Ground.OCHRE, (to_crossing > 16.0) & (u < 0.7) & (island < 0.4))

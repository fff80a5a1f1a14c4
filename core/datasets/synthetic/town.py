"""The street plan of one scene: streets, the painted ground map, kerbs to build along, and the route of the ego car."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from core.datasets.synthetic.materials import Ground
from core.datasets.synthetic.raycast import RESOLUTION

__all__ = ["FRONT", "LANE", "Kerb", "Route", "Town", "make_town"]

HALF_STREET = 7.5  # m, centre line to kerb: a lane of 4.9 m and a parking lane of 2.6 m
EDGE = 4.9  # m, centre line to parking lane
LANE = 2.3  # m, centre line to the middle of the lane (right-hand traffic)
CORNER = 4.0  # m, radius of the kerb at a crossing
CLEAR = 12.5  # m, no parking nearer to a crossing's centre
STRIP = 1.3  # m from the kerb, end of the planted strip
WALK = 3.8  # m from the kerb, end of the sidewalk
FRONT = 6.5  # m from the kerb, building line
BORDER = 56.0  # m, edge of the map to the first street
_STREETS = 4  # in each direction
_BLOCKS = _STREETS + 1


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
        """Return the world point (m) ``along`` m down the kerb, ``offset`` m into the block (< 0: onto the street)."""
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
        x0 -= shift
        y0 -= shift
        x1 += shift
        y1 += shift
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        turn = math.pi / 2
        if not left:
            corners = [corners[0], corners[3], corners[2], corners[1]]
            turn = -turn
        self._legs: list[_Leg] = []
        self.turns: list[float] = []  # m along the route, middle of each turn
        travelled = 0.0
        arc = radius * math.pi / 2
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
            yaw = math.atan2(by - ay, bx - ax)
            length = math.hypot(bx - ax, by - ay) - 2 * radius
            x = ax + radius * math.cos(yaw)
            y = ay + radius * math.sin(yaw)
            self._legs.append(_Leg(x, y, yaw, length, 0.0))
            x += length * math.cos(yaw)
            y += length * math.sin(yaw)
            self._legs.append(_Leg(x, y, yaw, arc, turn / arc))
            self.turns.append(travelled + length + arc / 2)
            travelled += length + arc
        self.length = travelled

    def at(self, along: float) -> tuple[float, float, float]:
        """Return (x, y, yaw), m and rad, ``along`` m down the route, wrapping round."""
        along %= self.length
        for leg in self._legs:
            if along <= leg.length:
                return leg.at(along)
            along -= leg.length
        return leg.x, leg.y, leg.yaw


class _Leg(NamedTuple):
    """A straight or an arc of a route: where it starts (m, rad), its length (m) and curvature (rad/m)."""

    x: float
    y: float
    yaw: float
    length: float
    bend: float

    def at(self, along: float) -> tuple[float, float, float]:
        if self.bend == 0.0:
            x = self.x + along * math.cos(self.yaw)
            y = self.y + along * math.sin(self.yaw)
            return x, y, self.yaw
        end = self.yaw + along * self.bend
        x = self.x + (math.sin(end) - math.sin(self.yaw)) / self.bend
        y = self.y - (math.cos(end) - math.cos(self.yaw)) / self.bend
        return x, y, end


def make_town(rng: np.random.Generator) -> Town:
    """Draw a town of 4 x 4 streets."""
    xs = _lines(rng)
    ys = _lines(rng)
    size = float(math.ceil((max(xs[-1], ys[-1]) + BORDER) / 4.0) * 4)
    i, j = rng.integers(0, 2, 2).tolist()
    left = bool(rng.random() < 0.5)
    parks = rng.random((_BLOCKS, _BLOCKS)) < 0.2
    spans_x = _spans(xs, size)
    spans_y = _spans(ys, size)
    blocks = []
    for a, (x0, x1) in enumerate(spans_x):
        for b, (y0, y1) in enumerate(spans_y):
            blocks.append((x0, y0, x1, y1, bool(parks[a, b])))
    return Town(
        xs=xs,
        ys=ys,
        size=size,
        ground=_paint(xs, ys, size, parks, rng),
        kerbs=tuple(_kerbs(xs, ys, size)),
        blocks=tuple(blocks),
        route=Route(xs[i], ys[j], xs[i + 1], ys[j + 1], left),
    )


def _lines(rng: np.random.Generator) -> np.ndarray:
    """Draw the centre lines of the streets in one direction, f64 [4] m."""
    gaps = rng.uniform(54.0, 66.0, _STREETS - 1)
    return BORDER + np.concatenate([[0.0], np.cumsum(gaps)])


def _spans(lines: np.ndarray, size: float) -> list[tuple[float, float]]:
    """From where to where the blocks between the streets ``lines`` reach, kerb to kerb, m."""
    lows = np.concatenate([[0.0], lines + HALF_STREET])
    highs = np.concatenate([lines - HALF_STREET, [size]])
    return list(zip(lows.tolist(), highs.tolist()))


def _kerbs(xs: np.ndarray, ys: np.ndarray, size: float) -> list[Kerb]:
    kerbs = []
    for lines, others, north in ((xs, ys, True), (ys, xs, False)):
        stops = np.concatenate([[-CLEAR], others, [size + CLEAR]])
        for line in lines:
            for low, high in zip(stops[:-1] + CLEAR, stops[1:] - CLEAR):
                kerbs.append(_kerb(line, low, high, north))
                kerbs.append(_kerb(line, high, low, north))
    return kerbs


def _kerb(line: float, begin: float, end: float, north: bool) -> Kerb:
    """Make the kerb on the right of who drives from ``begin`` to ``end`` m along a street at ``line`` m."""
    sign = 1.0 if end > begin else -1.0
    if north:
        middle = np.array([line, begin])
        forward = np.array([0.0, sign])
    else:
        middle = np.array([begin, line])
        forward = np.array([sign, 0.0])
    outward = np.array([forward[1], -forward[0]])
    return Kerb(middle + HALF_STREET * outward, forward, outward, float(abs(end - begin)))


def _paint(
    xs: np.ndarray, ys: np.ndarray, size: float, parks: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw the ground map, u8 [S, S], rows along y."""
    cells = round(size / RESOLUTION)
    middle = ((np.arange(cells) + 0.5) * RESOLUTION).astype(np.float32)
    off_x = _offset(middle, xs)[None, :]
    off_y = _offset(middle, ys)[:, None]
    u = np.abs(off_x)
    v = np.abs(off_y)
    # depth into the block: distance from the kerb, whose corners are rounded
    cut_x = HALF_STREET + CORNER - u
    cut_y = HALF_STREET + CORNER - v
    corner = (cut_x > 0) & (cut_y > 0)
    straight = np.minimum(u, v) - np.float32(HALF_STREET)
    depth = np.where(corner, CORNER - np.hypot(cut_x, cut_y), straight)

    yards, fronts, strips = _grounds(parks, rng)
    pick = np.ix_(np.searchsorted(ys, middle), np.searchsorted(xs, middle))
    ground = yards.T[pick]
    np.copyto(ground, fronts.T[pick], where=depth < FRONT)
    np.copyto(ground, np.uint8(Ground.SIDEWALK), where=depth < WALK)
    np.copyto(ground, strips.T[pick], where=depth < STRIP)
    np.copyto(ground, np.uint8(Ground.SIDEWALK), where=(depth < STRIP) & corner)
    np.copyto(ground, np.uint8(Ground.ASPHALT), where=depth < 0)
    _paint_street(ground, off_x, v, middle[:, None], rng.random(len(xs) * 8))
    _paint_street(ground.T, off_y.T, u.T, middle[:, None], rng.random(len(ys) * 8))
    return ground


def _grounds(
    parks: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw materials of each block's yard, of the front of its houses and of the planted strip, u8 [5, 5] each."""
    # any four blocks round a crossing have four different strips and fronts, so every ground is met on every way
    odd = np.arange(_BLOCKS) % 2
    quarter = odd[:, None] * 2 + odd
    strips = rng.permutation([Ground.GRASS, Ground.PAVERS, Ground.OCHRE, Ground.DIRT])[quarter]
    fronts = rng.permutation([Ground.GRASS, Ground.SIDEWALK, Ground.PAVERS, Ground.GRASS])[quarter]
    yards = rng.choice([Ground.GRASS, Ground.DIRT, Ground.SIDEWALK], (_BLOCKS, _BLOCKS))
    fronts[parks] = Ground.GRASS
    yards[parks] = Ground.GRASS
    return yards.astype(np.uint8), fronts.astype(np.uint8), strips.astype(np.uint8)


def _offset(middle: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """Signed distance of ``middle`` from the nearest of the centre ``lines``, f32 [S] m."""
    nearest = np.abs(middle[:, None] - lines[None, :]).argmin(1)
    return (middle - lines[nearest]).astype(np.float32)


def _paint_street(
    ground: np.ndarray,
    off: np.ndarray,
    to_crossing: np.ndarray,
    along: np.ndarray,
    chance: np.ndarray,
) -> None:
    """Paint parking lanes, markings, zebra crossings and islands of all streets along one axis, in place.

    Args:
        ground: u8 [along, across]. off: f32 [1, across] m from the centre line, signed. to_crossing: f32 [along, 1] m.
        along: f32 [along, 1] m. chance: uniform draws that decide which stretches get what.
    """
    u = np.abs(off)
    stretch = _entered(to_crossing[:, 0] < CLEAR)[:, None]  # crossings passed
    street = _entered(u[0] < HALF_STREET)[None, :]
    draw = chance[(stretch * 5 + street * 3 + (off > 0)) % len(chance)]
    island = chance[(stretch * 7 + street * 2) % len(chance)]
    open_road = to_crossing > CLEAR
    lane_edge = (u > EDGE - 0.1) & (u <= EDGE + 0.1)
    zebra = (to_crossing > 8.4) & (to_crossing < 11.0) & (off % 1.0 < 0.5)
    stop_line = (to_crossing > 11.6) & (to_crossing < 12.0)

    def put(material: Ground, where: np.ndarray) -> None:
        np.copyto(ground, np.uint8(material), where=where)

    put(Ground.PARKING, open_road & (u > EDGE) & (u < HALF_STREET) & (draw < 0.75))
    put(Ground.MARKING, open_road & (u < 0.1) & (along % 6.0 < 3.0))
    put(Ground.MARKING, open_road & lane_edge & (draw < 0.45))
    put(Ground.MARKING, zebra & (u < HALF_STREET - 0.4))
    put(Ground.MARKING, stop_line & (u < EDGE))
    put(Ground.OCHRE, (to_crossing > 16.0) & (u < 0.7) & (island < 0.4))


def _entered(inside: np.ndarray) -> np.ndarray:
    """How many stretches of True have begun up to each place of ``inside`` (bool [S]), i64 [S]."""
    return np.cumsum(np.diff(inside.astype(np.int8), prepend=0) == 1)

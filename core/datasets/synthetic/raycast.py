"""First hit of a ray among analytic solids (uniform grid over the ground plane) and a two-level ground map."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from core.datasets.synthetic.materials import Ground
from core.datasets.synthetic.solids import BOX, CYLINDER, Solids, extent

__all__ = [
    "CELL",
    "GROUND",
    "KERB",
    "KERB_HEIGHT",
    "NOTHING",
    "RESOLUTION",
    "Geometry",
    "cast",
    "cast_each",
    "first_hit",
    "geometry",
    "ground_at",
    "local",
    "world_normal",
]

# what a ray may hit beside solid number 0..n-1
NOTHING = -1
GROUND = -2
KERB = -3
KERB_HEIGHT = 0.15  # m
RESOLUTION = 0.2  # m per cell of the ground map
CELL = 4.0  # m, cell of the grid of solids
RAISED = int(Ground.SIDEWALK)  # first ground material that lies on the kerb level
OUTSIDE = int(Ground.GRASS)  # ground material beyond the map
_NEAREST = 1e-4  # m, nearer hits are the surface the ray starts from
_FACE_STEP = 0.1  # m, in which the kerb's face is looked for

Hit = tuple[float, float, float, float]  # distance m, local normal


class Geometry(NamedTuple):
    """Everything a ray can hit at one instant.

    Attributes:
        kind: i32 [n]. centre: f64 [n, 3]. inverse: f64 [n, 3, 3], world -> unit solid. taper: f64 [n, 2].
        radius2: f64 [n], squared radius of the bounding sphere.
        start: i64 [cells + 1], items: i32, top: f64 [cells] m: solids per cell and their greatest height.
        across: cells per side. ground: u8 [rows (y), columns (x)] ground map, origin at (0, 0).
    """

    kind: np.ndarray
    centre: np.ndarray
    inverse: np.ndarray
    taper: np.ndarray
    radius2: np.ndarray
    start: np.ndarray
    items: np.ndarray
    top: np.ndarray
    across: int
    ground: np.ndarray


def geometry(solids: Solids, ground: np.ndarray) -> Geometry:
    """Index ``solids`` for ray casting over the square ``ground`` map (u8 [S, S])."""
    low, high = extent(solids)
    across = math.ceil(ground.shape[0] * RESOLUTION / CELL)
    start, items, top = _fill(low, high, across)
    inverse = np.ascontiguousarray(np.swapaxes(solids.axes, 1, 2) / solids.half[:, :, None])
    radius2 = (solids.half**2).sum(1)
    return Geometry(
        kind=solids.kind,
        centre=np.ascontiguousarray(solids.centre),
        inverse=inverse,
        taper=solids.taper,
        radius2=radius2,
        start=start,
        items=items,
        top=top,
        across=across,
        ground=ground,
    )


@njit(cache=True)
def _fill(
    low: np.ndarray, high: np.ndarray, across: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counting sort of bounds ``low``, ``high`` (f64 [n, 3] m) by cell: start, items and top of `Geometry`."""
    n = low.shape[0]
    first = np.empty((n, 2), np.int64)
    last = np.empty((n, 2), np.int64)
    start = np.zeros(across * across + 1, np.int64)
    top = np.full(across * across, -1.0)
    for i in range(n):
        for a in range(2):
            first[i, a] = min(max(math.floor(low[i, a] / CELL), 0), across - 1)
            last[i, a] = min(max(math.floor(high[i, a] / CELL), 0), across - 1)
        for y in range(first[i, 1], last[i, 1] + 1):
            for x in range(first[i, 0], last[i, 0] + 1):
                c = y * across + x
                start[c + 1] += 1
                top[c] = max(top[c], high[i, 2])
    for c in range(across * across):
        start[c + 1] += start[c]
    cursor = start[:-1].copy()
    items = np.empty(start[-1], np.int32)
    for i in range(n):
        for y in range(first[i, 1], last[i, 1] + 1):
            for x in range(first[i, 0], last[i, 0] + 1):
                c = y * across + x
                items[cursor[c]] = i
                cursor[c] += 1
    return start, items, top


@njit(cache=True)
def ground_at(ground: np.ndarray, x: float, y: float) -> int:
    """Return the material of the ``ground`` map (u8 [S, S]) under (x, y), m."""
    row = math.floor(y / RESOLUTION)
    column = math.floor(x / RESOLUTION)
    if row < 0 or column < 0 or row >= ground.shape[0] or column >= ground.shape[1]:
        return OUTSIDE
    return int(ground[row, column])


@njit(cache=True)
def _hit_ground(
    ground: np.ndarray, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> tuple[float, int]:
    """(distance, GROUND | KERB | NOTHING): the raised level first, then the kerb's face, then the road level."""
    if dz > -1e-6:
        return np.inf, NOTHING
    upper = (KERB_HEIGHT - oz) / dz
    lower = -oz / dz
    if ground_at(ground, ox + upper * dx, oy + upper * dy) >= RAISED:
        return upper, GROUND
    way = (lower - upper) * math.sqrt(dx * dx + dy * dy)
    steps = min(max(math.ceil(way / _FACE_STEP), 1), 64)
    for k in range(1, steps + 1):
        t = upper + (lower - upper) * k / steps
        if ground_at(ground, ox + t * dx, oy + t * dy) >= RAISED:
            return t, KERB
    return lower, GROUND


@njit(cache=True)
def _hit_box(
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, ax: float, ay: float
) -> Hit:
    """Unit box whose x and y half sizes fall from 1 to 1 - taper: distance and local normal."""
    near = -np.inf
    far = np.inf
    nx, ny, nz = 0.0, 0.0, 0.0
    for face in range(6):
        sign = 1.0 if face & 1 else -1.0
        px, py, pz, bound = 0.0, 0.0, sign, 1.0
        if face < 2:
            px, pz, bound = sign, 0.5 * ax, 1.0 - 0.5 * ax
        elif face < 4:
            py, pz, bound = sign, 0.5 * ay, 1.0 - 0.5 * ay
        slope = px * dx + py * dy + pz * dz
        room = bound - (px * ox + py * oy + pz * oz)
        if slope == 0.0:
            if room < 0.0:
                return np.inf, nx, ny, nz
        elif slope < 0.0:
            if room / slope > near:
                near = room / slope
                nx, ny, nz = px, py, pz
        else:
            far = min(far, room / slope)
        if near > far:
            return np.inf, nx, ny, nz
    if near <= _NEAREST:
        near = np.inf
    return near, nx, ny, nz


@njit(cache=True)
def _hit_cylinder(
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, a: float
) -> Hit:
    """Unit cylinder whose radius falls from 1 to 1 - a: distance and local normal."""
    best = np.inf
    nx, ny, nz = 0.0, 0.0, 0.0
    r0 = 1.0 - 0.5 * a * (oz + 1.0)  # radius where the ray starts, and its change along the ray
    rd = -0.5 * a * dz
    qa = dx * dx + dy * dy - rd * rd
    qb = ox * dx + oy * dy - r0 * rd
    qc = ox * ox + oy * oy - r0 * r0
    square = qb * qb - qa * qc
    if square >= 0.0 and abs(qa) > 1e-12:
        root = math.sqrt(square)
        for sign in (-1.0, 1.0):
            t = (-qb + sign * root) / qa
            radius = r0 + t * rd
            if _NEAREST < t < best and abs(oz + t * dz) <= 1.0 and radius >= 0.0:
                best = t
                nx = ox + t * dx
                ny = oy + t * dy
                nz = 0.5 * a * radius
    if dz != 0.0:
        for z in (-1.0, 1.0):
            t = (z - oz) / dz
            x = ox + t * dx
            y = oy + t * dy
            radius = 1.0 - 0.5 * a * (z + 1.0)
            if _NEAREST < t < best and x * x + y * y <= radius * radius:
                best = t
                nx, ny, nz = 0.0, 0.0, z
    return best, nx, ny, nz


@njit(cache=True)
def _hit_sphere(ox: float, oy: float, oz: float, dx: float, dy: float, dz: float) -> Hit:
    """Unit sphere: distance and local normal."""
    qa = dx * dx + dy * dy + dz * dz
    qb = ox * dx + oy * dy + oz * dz
    qc = ox * ox + oy * oy + oz * oz - 1.0
    square = qb * qb - qa * qc
    if square < 0.0:
        return np.inf, 0.0, 0.0, 0.0
    t = (-qb - math.sqrt(square)) / qa
    if t <= _NEAREST:
        return np.inf, 0.0, 0.0, 0.0
    return t, ox + t * dx, oy + t * dy, oz + t * dz


@njit(cache=True)
def local(inverse: np.ndarray, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Turn a world vector into a solid's frame; ``inverse`` f64 [3, 3] is the solid's in `Geometry`."""
    u = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2] * z
    v = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2] * z
    w = inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2] * z
    return u, v, w


@njit(cache=True)
def _hit_solid(
    g: Geometry, i: int, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> Hit:
    """Distance along the unit world ray, and the hit's local normal."""
    cx = ox - g.centre[i, 0]
    cy = oy - g.centre[i, 1]
    cz = oz - g.centre[i, 2]
    along = cx * dx + cy * dy + cz * dz
    if cx * cx + cy * cy + cz * cz - along * along > g.radius2[i]:
        return np.inf, 0.0, 0.0, 0.0
    lx, ly, lz = local(g.inverse[i], cx, cy, cz)
    ex, ey, ez = local(g.inverse[i], dx, dy, dz)
    if g.kind[i] == BOX:
        return _hit_box(lx, ly, lz, ex, ey, ez, g.taper[i, 0], g.taper[i, 1])
    if g.kind[i] == CYLINDER:
        return _hit_cylinder(lx, ly, lz, ex, ey, ez, g.taper[i, 0])
    return _hit_sphere(lx, ly, lz, ex, ey, ez)


@njit(cache=True)
def _walk(origin: float, direction: float) -> tuple[int, int, float, float]:
    """Walk along one axis: first cell, step to the next, distance (m) to its border, and between borders."""
    cell = math.floor(origin / CELL)
    if direction == 0.0:
        return cell, -1, np.inf, np.inf
    step = -1
    border = cell
    if direction > 0.0:
        step = 1
        border = cell + 1
    return cell, step, (border * CELL - origin) / direction, abs(CELL / direction)


@njit(cache=True)
def first_hit(
    g: Geometry,
    ox: float,
    oy: float,
    oz: float,
    dx: float,
    dy: float,
    dz: float,
    reach: float,
    limit: int,
) -> tuple[float, int, float, float, float]:
    """Find the nearest hit of a unit ray within ``reach`` m among the ground and solids 0..limit-1.

    Returns:
        distance (inf if none), what (solid number, GROUND, KERB or NOTHING), local normal of a solid (3 floats).
    """
    best, what = _hit_ground(g.ground, ox, oy, oz, dx, dy, dz)
    if best > reach:
        best, what = reach, NOTHING
    nx, ny, nz = 0.0, 0.0, 0.0
    across = g.across
    x, step_x, next_x, delta_x = _walk(ox, dx)
    y, step_y, next_y, delta_y = _walk(oy, dy)
    entry = 0.0
    while 0 <= x < across and 0 <= y < across and entry < best:
        leave = min(next_x, next_y)
        cell = y * across + x
        if min(oz + entry * dz, oz + leave * dz) <= g.top[cell]:
            for k in range(g.start[cell], g.start[cell + 1]):
                i = g.items[k]
                if i >= limit:
                    continue
                t, ax, ay, az = _hit_solid(g, i, ox, oy, oz, dx, dy, dz)
                if t < best:
                    best, what = t, i
                    nx, ny, nz = ax, ay, az
        entry = leave
        if next_x < next_y:
            x += step_x
            next_x += delta_x
        else:
            y += step_y
            next_y += delta_y
    if what == NOTHING:
        best = np.inf
    return best, what, nx, ny, nz


@njit(cache=True)
def world_normal(
    g: Geometry, i: int, nx: float, ny: float, nz: float
) -> tuple[float, float, float]:
    """Turn solid ``i``'s local normal into the unit world normal."""
    m = g.inverse[i]
    wx = m[0, 0] * nx + m[1, 0] * ny + m[2, 0] * nz
    wy = m[0, 1] * nx + m[1, 1] * ny + m[2, 1] * nz
    wz = m[0, 2] * nx + m[1, 2] * ny + m[2, 2] * nz
    length = math.sqrt(wx * wx + wy * wy + wz * wz) + 1e-12
    return wx / length, wy / length, wz / length


@njit(cache=True)
def cast(
    g: Geometry, origin: np.ndarray, directions: np.ndarray, reach: float, limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cast unit rays from one origin, f64 [3] m; the rest as of :func:`cast_each`."""
    origins = np.empty_like(directions)
    origins[:] = origin
    return cast_each(g, origins, directions, reach, limit)


@njit(cache=True)
def cast_each(
    g: Geometry, origins: np.ndarray, directions: np.ndarray, reach: float, limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cast unit rays, each from its own origin.

    Args:
        g: the geometry. origins: f64 [n, 3] m. directions: f64 [n, 3], unit. reach: m.
        limit: solids from this number on are unseen.

    Returns:
        distance f64 [n] m (inf: no hit), what i32 [n], cosine of incidence f64 [n], ground material u8 [n].
    """
    n = directions.shape[0]
    distance = np.empty(n)
    what = np.empty(n, np.int32)
    cosine = np.ones(n)
    material = np.zeros(n, np.uint8)
    for k in range(n):
        ox, oy, oz = origins[k, 0], origins[k, 1], origins[k, 2]
        dx, dy, dz = directions[k, 0], directions[k, 1], directions[k, 2]
        t, hit, nx, ny, nz = first_hit(g, ox, oy, oz, dx, dy, dz, reach, limit)
        distance[k] = t
        what[k] = hit
        if hit == NOTHING:
            continue
        if hit >= 0:
            wx, wy, wz = world_normal(g, hit, nx, ny, nz)
            cosine[k] = abs(wx * dx + wy * dy + wz * dz)
            continue
        if hit == GROUND:
            cosine[k] = abs(dz)
        else:
            cosine[k] = math.sqrt(dx * dx + dy * dy)
        material[k] = ground_at(g.ground, ox + t * dx, oy + t * dy)
    return distance, what, cosine, material

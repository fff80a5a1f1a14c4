"""Camera images: the colour a ray would see, with textures, sun, shadow, haze and sky."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from core.datasets.synthetic.materials import GROUND_COLOUR, Ground, Mat
from core.datasets.synthetic.raycast import (
    KERB,
    NOTHING,
    Geometry,
    first_hit,
    ground_at,
    local,
    world_normal,
)
from core.datasets.synthetic.scene import Snapshot

__all__ = ["expose", "render", "render_rays"]

_REACH = 250.0  # m
_SHADOWS = 80.0  # m, farther surfaces are all in the sun
_BLOCKED = 60.0  # m, what casts a shadow is nearer

_inlined = njit(inline="always")  # a call that hands on the geometry costs more than what it does

# compiled code compares plain numbers
_FACADE = int(Mat.FACADE)
_FOLIAGE = int(Mat.FOLIAGE)
_BARK = int(Mat.BARK)
_CONCRETE = int(Mat.CONCRETE)
_CLOTH = int(Mat.CLOTH)
_STRIPES = int(Mat.STRIPES)
_CABIN = int(Mat.CABIN)
_COACH = int(Mat.COACH)
_SLATS = int(Mat.SLATS)
_BRICK = int(Mat.BRICK)
_TILES = int(Mat.TILES)
_PARKING = int(Ground.PARKING)
_SIDEWALK = int(Ground.SIDEWALK)
_GRASS = int(Ground.GRASS)
_DIRT = int(Ground.DIRT)
_PAVERS = int(Ground.PAVERS)
_OCHRE = int(Ground.OCHRE)

Colour = tuple[float, float, float]  # sRGB-like 0..1


class _Looks(NamedTuple):
    """What a pixel's colour depends on; arrays of solids as in `Solids`.

    Attributes:
        visible: solids from this number on are unseen. ground: f64 [materials, 3] colours.
        sun: f64 [3], unit vector towards the sun.
    """

    material: np.ndarray
    colour: np.ndarray
    half: np.ndarray
    thing: np.ndarray
    visible: int
    ground: np.ndarray
    sun: np.ndarray


def render(
    snapshot: Snapshot, pose: np.ndarray, matrix: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cast one ray through the centre of every pixel of a pinhole camera.

    Args:
        snapshot: the world. pose: f64 [4, 4], camera (x right, y down, z forward) -> world.
        matrix: f64 [3, 3] intrinsics, px; pixel (column 0, row 0) has its centre at (0, 0). size: (width, height) px.

    Returns:
        as of :func:`render_rays`.
    """
    to_world = np.ascontiguousarray(pose[:3, :3] @ np.linalg.inv(matrix))
    return render_rays(snapshot, pose[:3, 3], _pinhole(to_world, *size))


def render_rays(
    snapshot: Snapshot, origin: np.ndarray, rays: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cast one ray per pixel.

    Args:
        snapshot: the world. origin: f64 [3] m, world. rays: f64 [H, W, 3], world, of any length.

    Returns:
        radiance f32 [H, W, 3] (sRGB-like 0..1), thing i32 [H, W] (0 none), distance f32 [H, W] m (inf: sky).
    """
    solids = snapshot.solids
    looks = _Looks(
        material=solids.material,
        colour=solids.colour,
        half=solids.half,
        thing=solids.thing,
        visible=snapshot.visible,
        ground=GROUND_COLOUR,
        sun=snapshot.sun,
    )
    return _render(snapshot.geometry, looks, rays, np.ascontiguousarray(origin))


def expose(radiance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Develop an image, u8 [H, W, 3]: exposure and white balance of the moment, pixel noise."""
    gain = rng.uniform(0.85, 1.15) * rng.normal(1.0, 0.02, 3)
    noise = rng.standard_normal(radiance.shape, dtype=np.float32)
    counts = 255.0 * radiance * gain.astype(np.float32) + 2.5 * noise
    return np.clip(counts, 0, 255).astype(np.uint8)


@njit(cache=True)
def _hash(x: int, y: int, salt: int) -> float:
    """Uniform [0, 1) from integers."""
    h = (x * 374761393 + y * 668265263 + salt * 974634541) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF) / 65536.0


@njit(cache=True)
def _noise(x: float, y: float, salt: int) -> float:
    """Smooth value noise in [0, 1], feature size 1."""
    ix = math.floor(x)
    iy = math.floor(y)
    fx = x - ix
    fy = y - iy
    fx = fx * fx * (3 - 2 * fx)
    fy = fy * fy * (3 - 2 * fy)
    a = _hash(ix, iy, salt) * (1 - fx) + _hash(ix + 1, iy, salt) * fx
    b = _hash(ix, iy + 1, salt) * (1 - fx) + _hash(ix + 1, iy + 1, salt) * fx
    return a * (1 - fy) + b * fy


@njit(cache=True)
def _ground_shade(material: int, x: float, y: float) -> float:
    """Brightness factor of a ground material's texture."""
    if material == _SIDEWALK:  # slabs of 0.5 m
        joint = (x % 0.5 < 0.03) or (y % 0.5 < 0.03)
        slab = 0.9 + 0.2 * _hash(int(x // 0.5), int(y // 0.5), 3)
        return (0.72 if joint else 1.0) * slab
    if material in (_PARKING, _PAVERS, _OCHRE):  # setts
        column = int(x // 0.25)
        joint = (x % 0.25 < 0.03) or ((y + 0.12 * (column & 1)) % 0.25 < 0.03)
        sett = 0.85 + 0.3 * _hash(column, int(y // 0.25), 5)
        return (0.8 if joint else 1.0) * sett
    if material in (_GRASS, _DIRT):
        return 0.55 + 0.45 * _noise(x * 9.0, y * 9.0, 7) + 0.35 * _noise(x * 0.6, y * 0.6, 9)
    return 0.84 + 0.12 * _noise(x * 12.0, y * 12.0, 11) + 0.2 * _noise(x * 0.35, y * 0.35, 13)


@njit(cache=True)
def _facade(colour: np.ndarray, u: float, v: float) -> Colour:
    """Windows in a plastered or brick wall; (u, v) m from the wall's middle and foot."""
    column = math.floor(u / 2.4)
    row = math.floor(v / 3.0)
    fu = u - 2.4 * column
    fv = v - 3.0 * row
    if 0.6 < fu < 1.8 and 0.9 < fv < 2.4:
        frame = fu < 0.68 or fu > 1.72 or fv < 0.98 or fv > 2.32
        if frame:
            return 0.85, 0.85, 0.82
        lit = 0.08 + 0.25 * _hash(column, row, 17)
        return lit * 0.9, lit, lit * 1.15
    shade = 0.9 + 0.12 * _noise(u * 3.0, v * 3.0, 19)
    if v < 0.6:
        shade *= 0.7
    return colour[0] * shade, colour[1] * shade, colour[2] * shade


@njit(cache=True)
def _bricks(u: float, v: float) -> float:
    """Brightness factor of bricks of 0.25 x 0.12 m."""
    row = math.floor(v / 0.12)
    shifted = u + 0.12 * (row & 1)
    if v % 0.12 < 0.02 or shifted % 0.25 < 0.02:
        return 1.35
    return 0.85 + 0.3 * _hash(math.floor(shifted / 0.25), row, 31)


@njit(cache=True)
def _leaves(u: float, v: float, x: float) -> float:
    """Brightness factor of foliage."""
    n = _noise(u * 5.0 + x * 3.0, v * 5.0, 23)
    return 0.45 + 0.9 * n * n + 0.3 * _hash(math.floor(u * 14), math.floor(v * 14), 25)


@njit(cache=True)
def _shade(
    material: int, upright: bool, u: float, v: float, x: float, y: float, height: float
) -> float:
    """Brightness factor of a material at (u, v) m of a face, (x, y) m of its solid of full ``height`` m."""
    if material == _FOLIAGE:
        return _leaves(u, v, x)
    if material == _BARK:
        return 0.7 + 0.5 * _noise((x + y) * 14.0, v * 3.0, 27)
    if material == _CABIN and upright:
        return 1.0 + 0.8 * v / height
    if material == _SLATS:
        if u % 0.18 < 0.04:
            return 0.45
        return 0.9 + 0.2 * _hash(math.floor(u / 0.18), 1, 29)
    if material == _BRICK:
        return _bricks(u, v)
    if material == _TILES:
        if v % 0.35 < 0.06:
            return 0.75
        return 0.9 + 0.2 * _noise(u * 4.0, v * 4.0, 33)
    if material in (_CONCRETE, _CLOTH):
        return 0.88 + 0.24 * _noise(u * 8.0, v * 8.0, 35)
    return 1.0


@njit(cache=True)
def _texture(
    material: int,
    colour: np.ndarray,
    half: np.ndarray,
    lx: float,
    ly: float,
    lz: float,
    nx: float,
    ny: float,
    nz: float,
) -> Colour:
    """Surface colour of a solid at a local point (m), with the local face normal."""
    r, g, b = colour[0], colour[1], colour[2]
    height = 2.0 * half[2]
    upright = abs(nz) < 0.7
    u = lx
    v = ly
    if upright:
        v = lz + half[2]
        if abs(nx) > abs(ny):
            u = ly
    if material == _FACADE and upright:
        return _facade(colour, u, v)
    if material == _STRIPES:
        period = max(0.25, half[2] * 0.8)
        if v % period > 0.5 * period:
            r, g, b = 0.93, 0.93, 0.9
    elif material == _CABIN and upright:
        r, g, b = 0.07, 0.09, 0.12
    elif material == _COACH and upright:
        if 0.42 * 2.0 * half[2] < v < 0.85 * 2.0 * half[2] and u % 1.5 > 0.12:
            r, g, b = 0.08, 0.1, 0.13
    shade = _shade(material, upright, u, v, lx, ly, height)
    return r * shade, g * shade, b * shade


@njit(cache=True)
def _sky(dx: float, dy: float, dz: float, sun: np.ndarray) -> Colour:
    """Colour of the sky in the direction (dx, dy, dz)."""
    height = min(max(dz, 0.0), 1.0)
    cloud = 0.0
    if dz > 0.0:
        cloud = _noise(4.0 * dx / (dz + 0.15), 4.0 * dy / (dz + 0.15), 41)
    glow = max(dx * sun[0] + dy * sun[1] + dz * sun[2], 0.0) ** 24
    white = 0.45 * cloud * cloud + 0.4 * glow
    r = 0.78 - 0.5 * height**0.6 + white
    g = 0.84 - 0.36 * height**0.6 + white
    b = 0.93 - 0.12 * height**0.6 + 0.5 * white
    return r, g, b


@_inlined
def _surface(
    g: Geometry,
    looks: _Looks,
    what: int,
    x: float,
    y: float,
    z: float,
    nx: float,
    ny: float,
    nz: float,
) -> tuple[float, float, float, float, float, float]:
    """Colour and world normal of a hit at (x, y, z); (nx, ny, nz) is the solid's local normal."""
    if what == KERB:
        return 0.6, 0.59, 0.56, 0.0, 0.0, 1.0
    if what < 0:
        material = ground_at(g.ground, x, y)
        shade = _ground_shade(material, x, y)
        c = looks.ground[material]
        return c[0] * shade, c[1] * shade, c[2] * shade, 0.0, 0.0, 1.0
    half = looks.half[what]
    cx = x - g.centre[what, 0]
    cy = y - g.centre[what, 1]
    cz = z - g.centre[what, 2]
    lx, ly, lz = local(g.inverse[what], cx, cy, cz)  # in half sizes
    lx *= half[0]
    ly *= half[1]
    lz *= half[2]
    red, green, blue = _texture(
        looks.material[what], looks.colour[what], half, lx, ly, lz, nx, ny, nz
    )
    wx, wy, wz = world_normal(g, what, nx, ny, nz)
    return red, green, blue, wx, wy, wz


@_inlined
def _sunlight(
    g: Geometry,
    looks: _Looks,
    t: float,
    x: float,
    y: float,
    z: float,
    wx: float,
    wy: float,
    wz: float,
) -> float:
    """Cosine of the sun's incidence on a surface at (x, y, z), ``t`` m from the camera; <= 0 in the dark."""
    sun = looks.sun
    sunny = wx * sun[0] + wy * sun[1] + wz * sun[2]
    if sunny <= 0.0 or t >= _SHADOWS:
        return sunny
    # the ray towards the sun starts a little above the surface
    sx = x + 0.02 * wx
    sy = y + 0.02 * wy
    sz = z + 0.02 * wz
    _, blocker, _, _, _ = first_hit(g, sx, sy, sz, sun[0], sun[1], sun[2], _BLOCKED, looks.visible)
    return sunny if blocker == NOTHING else 0.0


@_inlined
def _pixel(
    g: Geometry, looks: _Looks, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float
) -> tuple[float, float, float, float, int]:
    """Colour a unit ray sees, distance (m) and solid number (or another of `first_hit`'s) of what it hits."""
    t, what, nx, ny, nz = first_hit(g, ox, oy, oz, dx, dy, dz, _REACH, looks.visible)
    if what == NOTHING:
        red, green, blue = _sky(dx, dy, dz, looks.sun)
        return red, green, blue, t, what
    x = ox + t * dx
    y = oy + t * dy
    z = oz + t * dz
    red, green, blue, wx, wy, wz = _surface(g, looks, what, x, y, z, nx, ny, nz)
    sunny = _sunlight(g, looks, t, x, y, z, wx, wy, wz)
    light = 0.5 + 0.12 * wz + 0.55 * max(sunny, 0.0)
    haze = 1.0 - math.exp(-t / 350.0)
    red = red * light * (1 - haze) + 0.8 * haze
    green = green * light * (1 - haze) + 0.85 * haze
    blue = blue * light * (1 - haze) + 0.92 * haze
    return red, green, blue, t, what


@njit(cache=True)
def _pinhole(to_world: np.ndarray, width: int, height: int) -> np.ndarray:
    """The world directions of a pinhole camera's pixels, f64 [H, W, 3]; to_world: f64 [3, 3], pixel -> world."""
    rays = np.empty((height, width, 3))
    for row in range(height):
        for column in range(width):
            for axis in range(3):
                m = to_world[axis]
                rays[row, column, axis] = m[0] * column + m[1] * row + m[2]
    return rays


@njit(cache=True)
def _render(
    g: Geometry, looks: _Looks, rays: np.ndarray, origin: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = rays.shape[0], rays.shape[1]
    image = np.empty((height, width, 3), np.float32)
    things = np.zeros((height, width), np.int32)
    distance = np.empty((height, width), np.float32)
    ox, oy, oz = origin[0], origin[1], origin[2]
    for row in range(height):
        for column in range(width):
            dx, dy, dz = rays[row, column, 0], rays[row, column, 1], rays[row, column, 2]
            scale = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
            dx *= scale
            dy *= scale
            dz *= scale
            red, green, blue, t, what = _pixel(g, looks, ox, oy, oz, dx, dy, dz)
            image[row, column, 0] = red
            image[row, column, 1] = green
            image[row, column, 2] = blue
            distance[row, column] = t
            if what >= 0:
                things[row, column] = looks.thing[what]
    return image, things, distance

"""Camera images: the colour a ray would see, with textures, sun, shadow, haze and sky."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from core.datasets.synthetic.materials import GROUND_COLOUR
from core.datasets.synthetic.raycast import KERB, NOTHING, first_hit, ground_at, world_normal
from core.datasets.synthetic.scene import Snapshot

__all__ = ["expose", "render"]

_REACH = 250.0  # m


def render(
    snapshot: Snapshot, pose: np.ndarray, matrix: np.ndarray, size: tuple[int, int]
) -> tuple:
    """Cast one ray through the centre of every pixel.

    Args:
        snapshot: the world. pose: f64 [4, 4], camera (x right, y down, z forward) -> world.
        matrix: f64 [3, 3] intrinsics, px; pixel (column 0, row 0) has its centre at (0, 0). size: (width, height) px.

    Returns:
        radiance f32 [H, W, 3] (sRGB-like 0..1), thing i32 [H, W] (0 none), distance f32 [H, W] m (inf: sky).
    """
    solids = snapshot.solids
    inverse = np.linalg.inv(matrix)
    return _render(
        snapshot.geometry,
        solids.material,
        solids.colour,
        solids.half,
        solids.thing,
        snapshot.visible,
        np.ascontiguousarray(pose[:3, :3] @ inverse),
        np.ascontiguousarray(pose[:3, 3]),
        snapshot.sun,
        GROUND_COLOUR,
        size[0],
        size[1],
    )


def expose(radiance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Develop an image, u8 [H, W, 3]: exposure and white balance of the moment, pixel noise."""
    gain = rng.uniform(0.85, 1.15) * rng.normal(1.0, 0.02, 3)
    noise = rng.standard_normal(radiance.shape, dtype=np.float32)
    return np.clip(255.0 * radiance * gain.astype(np.float32) + 2.5 * noise, 0, 255).astype(
        np.uint8
    )


@njit(cache=True)
def _hash(x, y, salt):
    """Uniform [0, 1) from integers."""
    h = (x * 374761393 + y * 668265263 + salt * 974634541) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF) / 65536.0


@njit(cache=True)
def _noise(x, y, salt):
    """Smooth value noise in [0, 1], feature size 1."""
    ix, iy = math.floor(x), math.floor(y)
    fx, fy = x - ix, y - iy
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    a = _hash(ix, iy, salt) * (1 - fx) + _hash(ix + 1, iy, salt) * fx
    b = _hash(ix, iy + 1, salt) * (1 - fx) + _hash(ix + 1, iy + 1, salt) * fx
    return a * (1 - fy) + b * fy


@njit(cache=True)
def _ground_shade(material, x, y):
    """Brightness factor of a ground material's texture."""
    if material == 3:  # slabs of 0.5 m
        joint = (x % 0.5 < 0.03) or (y % 0.5 < 0.03)
        return (0.72 if joint else 1.0) * (0.9 + 0.2 * _hash(int(x // 0.5), int(y // 0.5), 3))
    if material == 2 or material == 6 or material == 7:  # setts
        joint = (x % 0.25 < 0.03) or ((y + 0.12 * (int(x // 0.25) & 1)) % 0.25 < 0.03)
        return (0.8 if joint else 1.0) * (0.85 + 0.3 * _hash(int(x // 0.25), int(y // 0.25), 5))
    if material == 4 or material == 5:
        return 0.55 + 0.45 * _noise(x * 9.0, y * 9.0, 7) + 0.35 * _noise(x * 0.6, y * 0.6, 9)
    return 0.84 + 0.12 * _noise(x * 12.0, y * 12.0, 11) + 0.2 * _noise(x * 0.35, y * 0.35, 13)


@njit(cache=True)
def _facade(colour, u, v):
    """Windows in a plastered or brick wall; (u, v) m from the wall's middle and foot."""
    column, row = math.floor(u / 2.4), math.floor(v / 3.0)
    fu, fv = u - 2.4 * column, v - 3.0 * row
    if 0.6 < fu < 1.8 and 0.9 < fv < 2.4:
        if fu < 0.68 or fu > 1.72 or fv < 0.98 or fv > 2.32:
            return 0.85, 0.85, 0.82
        lit = 0.08 + 0.25 * _hash(column, row, 17)
        return lit * 0.9, lit, lit * 1.15
    shade = 0.9 + 0.12 * _noise(u * 3.0, v * 3.0, 19)
    if v < 0.6:
        shade *= 0.7
    return colour[0] * shade, colour[1] * shade, colour[2] * shade


@njit(cache=True)
def _texture(material, colour, half, lx, ly, lz, nx, ny, nz):
    """Surface colour of a solid at a local point (m), with the local face normal."""
    r, g, b = colour[0], colour[1], colour[2]
    upright = abs(nz) < 0.7
    u = ly if abs(nx) > abs(ny) else lx
    v = lz + half[2]
    if not upright:
        u, v = lx, ly
    shade = 1.0
    if material == 1 and upright:
        return _facade(colour, u, v)
    if material == 3:
        n = _noise(u * 5.0 + lx * 3.0, v * 5.0, 23)
        shade = 0.45 + 0.9 * n * n + 0.3 * _hash(math.floor(u * 14), math.floor(v * 14), 25)
    elif material == 4:
        shade = 0.7 + 0.5 * _noise((lx + ly) * 14.0, v * 3.0, 27)
    elif material == 10:
        period = max(0.25, half[2] * 0.8)
        if v % period > 0.5 * period:
            r, g, b = 0.93, 0.93, 0.9
    elif material == 11:
        if upright:
            r, g, b = 0.07, 0.09, 0.12
            shade = 1.0 + 0.8 * v / (2.0 * half[2])
    elif material == 12:
        if upright and 0.42 * 2.0 * half[2] < v < 0.85 * 2.0 * half[2] and u % 1.5 > 0.12:
            r, g, b = 0.08, 0.1, 0.13
    elif material == 13:
        shade = 0.45 if u % 0.18 < 0.04 else 0.9 + 0.2 * _hash(math.floor(u / 0.18), 1, 29)
    elif material == 14:
        row = math.floor(v / 0.12)
        joint = v % 0.12 < 0.02 or (u + 0.12 * (row & 1)) % 0.25 < 0.02
        shade = (
            1.35
            if joint
            else 0.85 + 0.3 * _hash(math.floor((u + 0.12 * (row & 1)) / 0.25), row, 31)
        )
    elif material == 15:
        shade = 0.75 if v % 0.35 < 0.06 else 0.9 + 0.2 * _noise(u * 4.0, v * 4.0, 33)
    elif material == 7 or material == 9:
        shade = 0.88 + 0.24 * _noise(u * 8.0, v * 8.0, 35)
    return r * shade, g * shade, b * shade


@njit(cache=True)
def _sky(dx, dy, dz, sun):
    height = min(max(dz, 0.0), 1.0)
    cloud = _noise(4.0 * dx / (dz + 0.15), 4.0 * dy / (dz + 0.15), 41) if dz > 0.0 else 0.0
    glow = max(dx * sun[0] + dy * sun[1] + dz * sun[2], 0.0) ** 24
    white = 0.45 * cloud * cloud + 0.4 * glow
    r = 0.78 - 0.5 * height**0.6 + white
    g = 0.84 - 0.36 * height**0.6 + white
    return r, g, 0.93 - 0.12 * height**0.6 + 0.5 * white


@njit(cache=True)
def _surface(g, material, colour, half, ground_colour, what, x, y, z, nx, ny, nz):
    """Colour and world normal of a hit at (x, y, z); (nx, ny, nz) is the solid's local normal."""
    if what < 0:
        ground = ground_at(g.ground, x, y)
        if what == KERB:
            return 0.6, 0.59, 0.56, 0.0, 0.0, 1.0
        shade = _ground_shade(ground, x, y)
        c = ground_colour[ground]
        return c[0] * shade, c[1] * shade, c[2] * shade, 0.0, 0.0, 1.0
    m = g.inverse[what]
    h = half[what]
    cx, cy, cz = x - g.centre[what, 0], y - g.centre[what, 1], z - g.centre[what, 2]
    lx = (m[0, 0] * cx + m[0, 1] * cy + m[0, 2] * cz) * h[0]
    ly = (m[1, 0] * cx + m[1, 1] * cy + m[1, 2] * cz) * h[1]
    lz = (m[2, 0] * cx + m[2, 1] * cy + m[2, 2] * cz) * h[2]
    r, gr, b = _texture(material[what], colour[what], h, lx, ly, lz, nx, ny, nz)
    wx, wy, wz = world_normal(g, what, nx, ny, nz)
    return r, gr, b, wx, wy, wz


@njit(cache=True)
def _render(
    g, material, colour, half, thing, visible, to_world, origin, sun, ground_colour, width, height
):
    image = np.empty((height, width, 3), np.float32)
    things = np.zeros((height, width), np.int32)
    distance = np.empty((height, width), np.float32)
    ox, oy, oz = origin[0], origin[1], origin[2]
    for row in range(height):
        for column in range(width):
            dx = to_world[0, 0] * column + to_world[0, 1] * row + to_world[0, 2]
            dy = to_world[1, 0] * column + to_world[1, 1] * row + to_world[1, 2]
            dz = to_world[2, 0] * column + to_world[2, 1] * row + to_world[2, 2]
            scale = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
            dx, dy, dz = dx * scale, dy * scale, dz * scale
            t, what, nx, ny, nz = first_hit(g, ox, oy, oz, dx, dy, dz, _REACH, visible)
            distance[row, column] = t
            sr, sg, sb = _sky(dx, dy, dz, sun)
            if what == NOTHING:
                image[row, column, 0], image[row, column, 1], image[row, column, 2] = sr, sg, sb
                continue
            x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
            r, gr, b, wx, wy, wz = _surface(
                g, material, colour, half, ground_colour, what, x, y, z, nx, ny, nz
            )
            sunny = wx * sun[0] + wy * sun[1] + wz * sun[2]
            if sunny > 0.0 and t < 80.0:
                sx, sy, sz = x + 0.02 * wx, y + 0.02 * wy, z + 0.02 * wz
                _, blocker, _, _, _ = first_hit(
                    g, sx, sy, sz, sun[0], sun[1], sun[2], 60.0, visible
                )
                if blocker != NOTHING:
                    sunny = 0.0
            light = 0.5 + 0.12 * wz + 0.55 * max(sunny, 0.0)
            haze = 1.0 - math.exp(-t / 350.0)
            image[row, column, 0] = r * light * (1 - haze) + 0.8 * haze
            image[row, column, 1] = gr * light * (1 - haze) + 0.85 * haze
            image[row, column, 2] = b * light * (1 - haze) + 0.92 * haze
            if what >= 0:
                things[row, column] = thing[what]
    return image, things, distance

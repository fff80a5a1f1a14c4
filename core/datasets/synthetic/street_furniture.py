"""Models of what stands still: trees, poles, signs, barriers, cones, hedges, walls, fences, houses."""

from __future__ import annotations

import math

import numpy as np

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.materials import Mat
from core.datasets.synthetic.solids import Model, rotation

__all__ = [
    "barrier",
    "bollard",
    "bush",
    "cone",
    "debris",
    "house",
    "hurdle",
    "lamp",
    "sign",
    "tree",
]

_GREY, _ORANGE = (0.55, 0.56, 0.57), (0.97, 0.36, 0.05)
_TURN_X = rotation(pitch=math.pi / 2)  # turns a cylinder's axis forward


def _leaf(rng: np.random.Generator) -> np.ndarray:
    base = np.array(
        [(0.16, 0.34, 0.1), (0.26, 0.42, 0.12), (0.12, 0.27, 0.12), (0.42, 0.4, 0.12)][
            rng.integers(4)
        ]
    )
    return np.clip(base + rng.normal(0, 0.02, 3), 0.03, 0.9)


def tree(rng: np.random.Generator) -> Model:
    """Trunk and a cluster of crowns."""
    model, leaf = Model(Cls.VEGETATION, float(rng.uniform(0.8, 1.2))), _leaf(rng)
    height, spread = rng.uniform(4.5, 8.5), rng.uniform(1.3, 2.4)
    fork = rng.uniform(2.0, 2.9)
    bark = np.array((0.3, 0.22, 0.15)) * rng.uniform(0.7, 1.4)
    radius = rng.uniform(0.13, 0.26)
    model.cylinder(
        (0, 0, fork / 2 + 0.3), radius, fork + 0.6, Mat.BARK, bark, taper=0.3, cls=Cls.TRUNK
    )
    if rng.random() < 0.25:  # a conifer
        body = height - fork * 0.6
        model.cylinder(
            (0, 0, fork * 0.6 + body / 2), spread * 0.8, body, Mat.FOLIAGE, leaf, taper=0.95
        )
        return model
    crown = height - fork
    model.ellipsoid(
        (0, 0, fork + crown / 2), (spread * 0.75, spread * 0.75, crown / 2), Mat.FOLIAGE, leaf
    )
    for k in range(4):
        angle = k * math.pi / 2 + rng.uniform(-0.5, 0.5)
        size = spread * rng.uniform(0.4, 0.65)
        x, y = spread * 0.55 * math.cos(angle), spread * 0.55 * math.sin(angle)
        z = fork + crown * rng.uniform(0.25, 0.7)
        model.ellipsoid(
            (x, y, z), (size, size, size * 0.85), Mat.FOLIAGE, leaf * rng.uniform(0.85, 1.15)
        )
    return model


def bush(rng: np.random.Generator) -> Model:
    """Two or three leafy balls."""
    model, leaf = Model(Cls.VEGETATION, float(rng.uniform(0.8, 1.2))), _leaf(rng)
    for k in range(rng.integers(2, 4)):
        size = rng.uniform(0.35, 0.65)
        model.ellipsoid(
            (0.5 * k - 0.5, rng.uniform(-0.2, 0.2), size * 0.7),
            (size, size, size),
            Mat.FOLIAGE,
            leaf,
        )
    return model


def hurdle(rng: np.random.Generator, length: float) -> Model:
    """A hedge, a low wall or a slatted fence: one and the same box, told apart by its look."""
    height, thick = rng.uniform(0.9, 1.3), rng.uniform(0.4, 0.55)
    cls, material, colour = [
        (Cls.VEGETATION, Mat.FOLIAGE, _leaf(rng)),
        (Cls.VEGETATION, Mat.FOLIAGE, _leaf(rng)),
        (Cls.WALL, Mat.BRICK, np.array((0.55, 0.28, 0.2)) * rng.uniform(0.8, 1.2)),
        (Cls.WALL, Mat.CONCRETE, np.array((0.62, 0.6, 0.56)) * rng.uniform(0.8, 1.2)),
        (Cls.FENCE, Mat.SLATS, np.array((0.45, 0.3, 0.18)) * rng.uniform(0.7, 1.3)),
    ][rng.integers(5)]
    if cls == Cls.FENCE:
        thick, height = 0.08, height + 0.3
    model = Model(cls, float(rng.uniform(0.8, 1.25)))
    model.box((0, 0, height / 2), (length, thick, height), material, colour)
    return model


def lamp(rng: np.random.Generator) -> Model:
    """A street light; its arm points to -y."""
    model, height = Model(Cls.POLE, float(rng.uniform(0.7, 1.3))), rng.uniform(5.5, 7.5)
    grey = np.array(_GREY) * rng.uniform(0.5, 1.2)
    model.cylinder((0, 0, height / 2), 0.1, height, Mat.METAL, grey, taper=0.3)
    model.cylinder((0, 0, 0.35), 0.16, 0.7, Mat.METAL, grey)
    model.cylinder(
        (0, 0.8, height - 0.05), 0.05, 1.7, Mat.METAL, grey, axes=rotation(roll=math.pi / 2)
    )
    model.box((0, 1.5, height - 0.08), (0.3, 0.6, 0.12), Mat.METAL, grey)
    return model


def sign(rng: np.random.Generator) -> Model:
    """A traffic sign on its pole, or a traffic light; the face looks to -x (at approaching drivers)."""
    model, kind = Model(Cls.SIGN), rng.integers(5)
    height = rng.uniform(2.3, 2.9)
    model.cylinder((0.05, 0, height / 2), 0.045, height, Mat.METAL, _GREY, cls=Cls.POLE)
    face = height - 0.3
    if kind == 0:
        model.cylinder((0, 0, face), 0.35, 0.04, Mat.RETRO, (0.8, 0.06, 0.06), axes=_TURN_X)
    elif kind == 1:
        model.cylinder((0, 0, face), 0.35, 0.04, Mat.RETRO, (0.1, 0.25, 0.7), axes=_TURN_X)
    elif kind == 2:
        model.box(
            (0, 0, face),
            (0.04, 0.6, 0.6),
            Mat.RETRO,
            (0.95, 0.8, 0.1),
            axes=rotation(roll=math.pi / 4),
        )
    elif kind == 3:
        model.box((0, 0, face), (0.04, 1.1, 0.55), Mat.RETRO, (0.08, 0.4, 0.2))
    else:
        model.box((-0.05, 0, face), (0.25, 0.3, 0.9), Mat.METAL, (0.08, 0.08, 0.08))
        for k, colour in enumerate(((0.1, 0.8, 0.2), (0.9, 0.6, 0.1), (0.9, 0.1, 0.1))):
            model.ellipsoid((-0.18, 0, face - 0.28 + 0.28 * k), (0.04, 0.1, 0.1), Mat.PAINT, colour)
    return model


def bollard(rng: np.random.Generator) -> Model:
    """A short post, as tall as a traffic cone and nearly as slim."""
    model = Model(Cls.POLE, float(rng.uniform(0.8, 1.3)))
    grey = np.array((0.3, 0.3, 0.32)) * rng.uniform(0.6, 1.6)
    model.cylinder((0, 0, 0.4), 0.12, 0.8, Mat.CONCRETE, grey, taper=rng.uniform(0.1, 0.5))
    return model


def cone(rng: np.random.Generator) -> Model:
    """A traffic cone."""
    model, height = Model(Cls.CONE, float(rng.uniform(0.7, 1.2))), rng.uniform(0.65, 0.9)
    model.box((0, 0, 0.03), (0.4, 0.4, 0.06), Mat.PAINT, (0.15, 0.12, 0.1))
    model.cylinder((0, 0, height / 2), 0.17, height, Mat.STRIPES, _ORANGE, taper=0.8)
    return model


def barrier(rng: np.random.Generator) -> Model:
    """A 2 m element of a jersey barrier, concrete or red and white plastic."""
    model = Model(Cls.BARRIER, float(rng.uniform(0.8, 1.2)))
    plastic = rng.random() < 0.6
    colour = (
        np.array((0.85, 0.15, 0.08))
        if plastic
        else np.array((0.7, 0.68, 0.62)) * rng.uniform(0.9, 1.1)
    )
    material = Mat.STRIPES if plastic else Mat.CONCRETE
    model.box((0, 0, 0.2), (2.0, 0.58, 0.4), material, colour, taper=(0.0, 0.45))
    model.box((0, 0, 0.65), (2.0, 0.3, 0.5), material, colour, taper=(0.0, 0.3))
    return model


def debris(rng: np.random.Generator) -> Model:
    """A heap or a box left on the ground."""
    model = Model(Cls.DEBRIS)
    model.box(
        (0, 0, 0.2),
        (0.6, 0.5, 0.4),
        Mat.CONCRETE,
        np.array((0.5, 0.38, 0.24)) * rng.uniform(0.8, 1.2),
    )
    return model


def house(rng: np.random.Generator, width: float, depth: float) -> Model:
    """A building of ``width`` (x) by ``depth`` (y); flat or pitched roof."""
    model = Model(Cls.BUILDING, float(rng.uniform(0.7, 1.3)))
    colours = [
        (0.6, 0.3, 0.22),
        (0.72, 0.68, 0.6),
        (0.5, 0.5, 0.52),
        (0.78, 0.66, 0.42),
        (0.62, 0.42, 0.36),
    ]
    colour = np.clip(np.array(colours[rng.integers(5)]) * rng.uniform(0.85, 1.15), 0.05, 0.95)
    height = rng.uniform(5.5, 18.0)
    model.box((0, 0, height / 2), (width, depth, height), Mat.FACADE, colour)
    if height < 9.0:
        roof = rng.uniform(1.5, 3.0)
        red = np.array((0.45, 0.2, 0.15)) * rng.uniform(0.7, 1.2)
        size = (width + 0.5, depth + 0.5, roof)
        model.box((0, 0, height + roof / 2), size, Mat.TILES, red, taper=(0.1, 0.85))
    door = rng.uniform(-0.3, 0.3) * width
    for side in (-1, 1):
        model.box((door, side * (depth / 2 + 0.15), 1.3), (1.6, 0.3, 2.6), Mat.PAINT, colour * 0.4)
    return model

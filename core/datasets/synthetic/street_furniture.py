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

# sRGB, 0..1
_GREY = (0.55, 0.56, 0.57)
_ORANGE = (0.97, 0.36, 0.05)
_BARK = (0.3, 0.22, 0.15)
_LEAVES = (
    (0.16, 0.34, 0.1),
    (0.26, 0.42, 0.12),
    (0.12, 0.27, 0.12),
    (0.42, 0.4, 0.12),
)
_LIGHTS = (
    (0.1, 0.8, 0.2),
    (0.9, 0.6, 0.1),
    (0.9, 0.1, 0.1),
)
_WALLS = (
    (0.6, 0.3, 0.22),
    (0.72, 0.68, 0.6),
    (0.5, 0.5, 0.52),
    (0.78, 0.66, 0.42),
    (0.62, 0.42, 0.36),
)
_TURN_X = rotation(pitch=math.pi / 2)  # turns a cylinder's axis forward


def _model(cls: Cls, rng: np.random.Generator, low: float, high: float) -> Model:
    """Begin a model whose coat is ``low`` to ``high`` times as bright as its material."""
    return Model(cls, float(rng.uniform(low, high)))


def _shaded(
    rng: np.random.Generator, colour: tuple[float, float, float], low: float, high: float
) -> np.ndarray:
    """Draw a brightness between ``low`` and ``high`` times that of ``colour``."""
    return np.array(colour) * rng.uniform(low, high)


def _leaf(rng: np.random.Generator) -> np.ndarray:
    base = np.array(_LEAVES[rng.integers(len(_LEAVES))])
    return np.clip(base + rng.normal(0, 0.02, 3), 0.03, 0.9)


def tree(rng: np.random.Generator) -> Model:
    """Model a trunk and a cluster of crowns, or a conifer."""
    model = _model(Cls.VEGETATION, rng, 0.8, 1.2)
    leaf = _leaf(rng)
    height = rng.uniform(4.5, 8.5)
    spread = rng.uniform(1.3, 2.4)
    fork = rng.uniform(2.0, 2.9)
    bark = _shaded(rng, _BARK, 0.7, 1.4)
    radius = rng.uniform(0.13, 0.26)
    middle = (0, 0, fork / 2 + 0.3)
    model.cylinder(
        middle,
        radius,
        fork + 0.6,
        Mat.BARK,
        bark,
        taper=0.3,
        cls=Cls.TRUNK,
    )
    conifer = rng.random() < 0.25
    if conifer:
        body = height - fork * 0.6
        middle = (0, 0, fork * 0.6 + body / 2)
        model.cylinder(middle, spread * 0.8, body, Mat.FOLIAGE, leaf, taper=0.95)
        return model
    crown = height - fork
    radii = (spread * 0.75, spread * 0.75, crown / 2)
    model.ellipsoid(
        (0, 0, fork + crown / 2),
        radii,
        Mat.FOLIAGE,
        leaf,
    )
    for k in range(4):
        angle = k * math.pi / 2 + rng.uniform(-0.5, 0.5)
        size = spread * rng.uniform(0.4, 0.65)
        x = spread * 0.55 * math.cos(angle)
        y = spread * 0.55 * math.sin(angle)
        z = fork + crown * rng.uniform(0.25, 0.7)
        shade = leaf * rng.uniform(0.85, 1.15)
        model.ellipsoid(
            (x, y, z),
            (size, size, size * 0.85),
            Mat.FOLIAGE,
            shade,
        )
    return model


def bush(rng: np.random.Generator) -> Model:
    """Model two or three leafy balls."""
    model = _model(Cls.VEGETATION, rng, 0.8, 1.2)
    leaf = _leaf(rng)
    for k in range(rng.integers(2, 4)):
        size = rng.uniform(0.35, 0.65)
        y = rng.uniform(-0.2, 0.2)
        model.ellipsoid(
            (0.5 * k - 0.5, y, size * 0.7),
            (size, size, size),
            Mat.FOLIAGE,
            leaf,
        )
    return model


def hurdle(rng: np.random.Generator, length: float) -> Model:
    """Model a hedge, a low wall or a slatted fence of ``length`` m: the same box, told apart by its look."""
    height = rng.uniform(0.9, 1.3)
    thick = rng.uniform(0.4, 0.55)
    kinds = [
        (Cls.VEGETATION, Mat.FOLIAGE, _leaf(rng)),
        (Cls.VEGETATION, Mat.FOLIAGE, _leaf(rng)),
        (Cls.WALL, Mat.BRICK, _shaded(rng, (0.55, 0.28, 0.2), 0.8, 1.2)),
        (Cls.WALL, Mat.CONCRETE, _shaded(rng, (0.62, 0.6, 0.56), 0.8, 1.2)),
        (Cls.FENCE, Mat.SLATS, _shaded(rng, (0.45, 0.3, 0.18), 0.7, 1.3)),
    ]
    cls, material, colour = kinds[rng.integers(len(kinds))]
    if cls == Cls.FENCE:
        thick = 0.08
        height += 0.3
    model = _model(cls, rng, 0.8, 1.25)
    model.box(
        (0, 0, height / 2),
        (length, thick, height),
        material,
        colour,
    )
    return model


def lamp(rng: np.random.Generator) -> Model:
    """Model a street light; its arm points to -y."""
    model = _model(Cls.POLE, rng, 0.7, 1.3)
    height = rng.uniform(5.5, 7.5)
    grey = _shaded(rng, _GREY, 0.5, 1.2)
    model.cylinder(
        (0, 0, height / 2),
        0.1,
        height,
        Mat.METAL,
        grey,
        taper=0.3,
    )
    model.cylinder((0, 0, 0.35), 0.16, 0.7, Mat.METAL, grey)
    arm = (0, 0.8, height - 0.05)
    model.cylinder(
        arm,
        0.05,
        1.7,
        Mat.METAL,
        grey,
        axes=rotation(roll=math.pi / 2),
    )
    head = (0, 1.5, height - 0.08)
    model.box(head, (0.3, 0.6, 0.12), Mat.METAL, grey)
    return model


def sign(rng: np.random.Generator) -> Model:
    """Model a traffic sign on its pole, or a traffic light; the face looks to -x (at approaching drivers)."""
    kind = rng.integers(5)
    model = Model(Cls.TRAFFIC_LIGHT if kind == 4 else Cls.SIGN)
    height = rng.uniform(2.3, 2.9)
    pole = (0.05, 0, height / 2)
    model.cylinder(pole, 0.045, height, Mat.METAL, _GREY, cls=Cls.POLE)
    face = (0, 0, height - 0.3)
    if kind == 0:
        model.cylinder(face, 0.35, 0.04, Mat.RETRO, (0.8, 0.06, 0.06), axes=_TURN_X)
    elif kind == 1:
        model.cylinder(face, 0.35, 0.04, Mat.RETRO, (0.1, 0.25, 0.7), axes=_TURN_X)
    elif kind == 2:
        on_edge = rotation(roll=math.pi / 4)
        model.box(face, (0.04, 0.6, 0.6), Mat.RETRO, (0.95, 0.8, 0.1), axes=on_edge)
    elif kind == 3:
        model.box(face, (0.04, 1.1, 0.55), Mat.RETRO, (0.08, 0.4, 0.2))
    else:
        _traffic_light(model, height - 0.3)
    return model


def _traffic_light(model: Model, z: float) -> None:
    model.box(
        (-0.05, 0, z),
        (0.25, 0.3, 0.9),
        Mat.METAL,
        (0.08, 0.08, 0.08),
    )
    for k, colour in enumerate(_LIGHTS):
        lens = (-0.18, 0, z - 0.28 + 0.28 * k)
        model.ellipsoid(lens, (0.04, 0.1, 0.1), Mat.PAINT, colour)


def bollard(rng: np.random.Generator) -> Model:
    """Model a short post, as tall as a traffic cone and nearly as slim."""
    model = _model(Cls.POLE, rng, 0.8, 1.3)
    grey = _shaded(rng, (0.3, 0.3, 0.32), 0.6, 1.6)
    taper = rng.uniform(0.1, 0.5)
    model.cylinder((0, 0, 0.4), 0.12, 0.8, Mat.CONCRETE, grey, taper=taper)
    return model


def cone(rng: np.random.Generator) -> Model:
    """Model a traffic cone."""
    model = _model(Cls.CONE, rng, 0.7, 1.2)
    height = rng.uniform(0.65, 0.9)
    model.box((0, 0, 0.03), (0.4, 0.4, 0.06), Mat.PAINT, (0.15, 0.12, 0.1))
    model.cylinder(
        (0, 0, height / 2),
        0.17,
        height,
        Mat.STRIPES,
        _ORANGE,
        taper=0.8,
    )
    return model


def barrier(rng: np.random.Generator) -> Model:
    """Model a 2 m element of a jersey barrier, concrete or red and white plastic."""
    model = _model(Cls.BARRIER, rng, 0.8, 1.2)
    plastic = rng.random() < 0.6
    if plastic:
        material = Mat.STRIPES
        colour = np.array((0.85, 0.15, 0.08))
    else:
        material = Mat.CONCRETE
        colour = _shaded(rng, (0.7, 0.68, 0.62), 0.9, 1.1)
    model.box((0, 0, 0.2), (2.0, 0.58, 0.4), material, colour, taper=(0.0, 0.45))
    model.box((0, 0, 0.65), (2.0, 0.3, 0.5), material, colour, taper=(0.0, 0.3))
    return model


def debris(rng: np.random.Generator) -> Model:
    """Model a heap or a box left on the ground."""
    model = Model(Cls.DEBRIS)
    colour = _shaded(rng, (0.5, 0.38, 0.24), 0.8, 1.2)
    model.box((0, 0, 0.2), (0.6, 0.5, 0.4), Mat.CONCRETE, colour)
    return model


def house(rng: np.random.Generator, width: float, depth: float) -> Model:
    """Model a building of ``width`` (x) by ``depth`` (y) m; flat or pitched roof."""
    model = _model(Cls.BUILDING, rng, 0.7, 1.3)
    wall = _WALLS[rng.integers(len(_WALLS))]
    colour = np.clip(_shaded(rng, wall, 0.85, 1.15), 0.05, 0.95)
    height = rng.uniform(5.5, 18.0)
    model.box(
        (0, 0, height / 2),
        (width, depth, height),
        Mat.FACADE,
        colour,
    )
    if height < 9.0:
        roof = rng.uniform(1.5, 3.0)
        red = _shaded(rng, (0.45, 0.2, 0.15), 0.7, 1.2)
        size = (width + 0.5, depth + 0.5, roof)
        model.box(
            (0, 0, height + roof / 2),
            size,
            Mat.TILES,
            red,
            taper=(0.1, 0.85),
        )
    door = rng.uniform(-0.3, 0.3) * width
    for side in (-1, 1):
        place = (door, side * (depth / 2 + 0.15), 1.3)
        model.box(place, (1.6, 0.3, 2.6), Mat.PAINT, colour * 0.4)
    return model

"""Models of everything on wheels. x forward, y left, z up from the ground, metres; all sizes drawn from ``rng``."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.materials import Mat
from core.datasets.synthetic.people import add_rider
from core.datasets.synthetic.solids import Model, rotation

__all__ = [
    "BUILDERS",
    "bicycle",
    "bus",
    "car",
    "construction",
    "ego_body",
    "motorcycle",
    "trailer",
    "truck",
]

# sRGB, 0..1
_PAINTS = np.array(
    [
        (0.85, 0.85, 0.86),
        (0.1, 0.1, 0.11),
        (0.45, 0.46, 0.48),
        (0.6, 0.08, 0.08),
        (0.1, 0.2, 0.5),
        (0.16, 0.32, 0.2),
        (0.7, 0.66, 0.55),
        (0.72, 0.73, 0.75),
        (0.3, 0.12, 0.08),
        (0.05, 0.3, 0.45),
    ]
)
_LIVERIES = (
    (0.75, 0.12, 0.1),
    (0.12, 0.35, 0.65),
    (0.9, 0.72, 0.1),
    (0.1, 0.5, 0.3),
)
_BLACK = (0.05, 0.05, 0.05)
_GREY = (0.3, 0.3, 0.32)
_HEADLIGHT = (0.95, 0.95, 0.9)
_REAR_LIGHT = (0.75, 0.03, 0.03)
_EGO_PAINT = (0.9, 0.9, 0.9)
_YELLOW = (0.92, 0.68, 0.08)
_ACROSS = rotation(roll=math.pi / 2)  # turns a cylinder's axis sideways
_SIDES = (-1, 1)  # right, left


def _paint(rng: np.random.Generator) -> np.ndarray:
    colour = _PAINTS[rng.integers(len(_PAINTS))]
    return np.clip(colour + rng.normal(0, 0.03, 3), 0.02, 0.97)


def _model(cls: Cls, rng: np.random.Generator) -> Model:
    return Model(cls, reflectance_scale=float(rng.uniform(0.75, 1.3)))


def _wheels(
    model: Model, xs: tuple[float, ...], half_width: float, radius: float, width: float
) -> None:
    """Add a pair of wheels at each of ``xs``, their outer faces ``half_width`` from the middle (m)."""
    for x in xs:
        for side in _SIDES:
            y = side * (half_width - width / 2)
            model.cylinder((x, y, radius), radius, width, Mat.RUBBER, _BLACK, axes=_ACROSS)


def car(rng: np.random.Generator) -> Model:
    """Model a saloon, hatchback or van."""
    model = _model(Cls.CAR, rng)
    paint = _paint(rng)
    van = rng.random() < 0.2
    length = rng.uniform(3.9, 4.9) + 0.3 * van
    width = rng.uniform(1.7, 1.9)
    if van:
        height = rng.uniform(1.9, 2.2)
        belt = 1.15  # m, lower edge of the windows
        cabin = length * 0.8
        shift = -0.09 * length
    else:
        height = rng.uniform(1.4, 1.7)
        belt = 0.95
        cabin = length * rng.uniform(0.5, 0.62)
        shift = -0.06 * length
    model.box(
        (0, 0, (0.22 + belt) / 2),
        (length, width, belt - 0.22),
        Mat.PAINT,
        paint,
        taper=(0.04, 0.1),
    )
    model.box(
        (shift, 0, (belt + height) / 2),
        (cabin, width * 0.94, height - belt),
        Mat.CABIN,
        paint,
        taper=(0.25, 0.18),
    )
    _wheels(model, (0.31 * length, -0.3 * length), width / 2, 0.33, 0.24)
    for side in _SIDES:
        headlight = (length / 2 - 0.03, side * width * 0.36, 0.68)
        model.box(headlight, (0.08, 0.3, 0.14), Mat.GLASS, _HEADLIGHT)
        rear_light = (0.03 - length / 2, side * width * 0.38, 0.76)
        model.box(rear_light, (0.08, 0.26, 0.16), Mat.PAINT, _REAR_LIGHT)
        mirror = (0.02 * length + 0.45, side * (width / 2 + 0.06), 1.0)
        model.box(mirror, (0.14, 0.16, 0.12), Mat.PAINT, paint)
    plate = (0.02 - length / 2, 0, 0.55)
    model.box(plate, (0.06, 0.5, 0.12), Mat.RETRO, (0.9, 0.9, 0.88))
    return model


def truck(rng: np.random.Generator) -> Model:
    """Model a rigid lorry: cab and box body, the body as large and smooth as a bus's."""
    model = _model(Cls.TRUCK, rng)
    paint = _paint(rng)
    cargo = _paint(rng)
    length = rng.uniform(7.0, 10.0)
    width = rng.uniform(2.3, 2.5)
    height = rng.uniform(2.9, 3.5)
    front = length / 2
    cab_top = height * rng.uniform(0.78, 0.95)
    model.box(
        (front - 0.95, 0, (0.5 + 1.6) / 2),
        (1.9, width * 0.97, 1.1),
        Mat.PAINT,
        paint,
    )
    model.box(
        (front - 0.98, 0, (1.6 + cab_top) / 2),
        (1.84, width * 0.96, cab_top - 1.6),
        Mat.CABIN,
        paint,
        taper=(0.12, 0.05),
    )
    body = length - 2.1
    model.box(
        (-front + body / 2, 0, (0.95 + height) / 2),
        (body, width, height - 0.95),
        Mat.PAINT,
        cargo,
    )
    model.box(
        (-0.2, 0, 0.78),
        (length - 0.8, width * 0.5, 0.34),
        Mat.METAL,
        _GREY,
    )
    _wheels(model, (front - 1.2, -front + 1.4, -front + 2.5), width / 2, 0.48, 0.3)
    for side in _SIDES:
        rear_light = (-front + 0.02, side * width * 0.4, 0.8)
        model.box(rear_light, (0.06, 0.3, 0.16), Mat.PAINT, _REAR_LIGHT)
        headlight = (front + 0.02, side * width * 0.38, 0.8)
        model.box(headlight, (0.06, 0.34, 0.16), Mat.GLASS, _HEADLIGHT)
    return model


def bus(rng: np.random.Generator) -> Model:
    """Model a city bus: one box with a band of windows."""
    model = _model(Cls.BUS, rng)
    paint = np.array(_LIVERIES[rng.integers(len(_LIVERIES))])
    length = rng.uniform(9.5, 11.5)
    width = 2.5
    height = rng.uniform(2.9, 3.3)
    front = length / 2
    model.box(
        (0, 0, (0.35 + height) / 2),
        (length, width, height - 0.35),
        Mat.COACH,
        paint,
        taper=(0.02, 0.03),
    )
    cooler = (-0.2 * length, 0, height + 0.1)
    model.box(cooler, (1.8, 1.5, 0.2), Mat.PAINT, (0.8, 0.8, 0.8))
    _wheels(model, (front - 2.4, -front + 2.6), width / 2 + 0.01, 0.48, 0.3)
    destination = (front - 0.02, 0, height - 0.35)
    model.box(destination, (0.1, 1.6, 0.3), Mat.PAINT, (0.95, 0.6, 0.1))
    for side in _SIDES:
        headlight = (front, side * 0.9, 0.75)
        model.box(headlight, (0.06, 0.35, 0.18), Mat.GLASS, _HEADLIGHT)
        rear_light = (-front, side * 1.0, 0.9)
        model.box(rear_light, (0.06, 0.2, 0.3), Mat.PAINT, _REAR_LIGHT)
    return model


def trailer(rng: np.random.Generator) -> Model:
    """Model a parked box or flatbed trailer, without a tractor."""
    model = _model(Cls.TRAILER, rng)
    cargo = _paint(rng)
    length = rng.uniform(6.5, 9.5)
    width = 2.45
    box = rng.random() < 0.7
    if box:
        height = rng.uniform(2.9, 3.5)
    else:
        height = rng.uniform(1.6, 2.1)
    model.box(
        (-0.4, 0, (1.0 + height) / 2),
        (length - 0.8, width, height - 1.0),
        Mat.PAINT,
        cargo,
    )
    model.box((0, 0, 0.86), (length, 0.9, 0.24), Mat.METAL, _GREY)
    _wheels(model, (-length / 2 + 1.2, -length / 2 + 2.3), width / 2, 0.48, 0.3)
    for side in _SIDES:
        leg = (length / 2 - 1.6, side * 0.7, 0.43)
        model.box(leg, (0.14, 0.14, 0.86), Mat.METAL, _GREY)
        board = (-length / 2 + 0.01, side * 0.9, 0.9)
        model.box(board, (0.06, 0.4, 0.16), Mat.STRIPES, (0.8, 0.05, 0.05))
    return model


def construction(rng: np.random.Generator) -> Model:
    """Model a yellow excavator, wheel loader or roller."""
    model = _model(Cls.CONSTRUCTION, rng)
    yellow = np.array(_YELLOW) + rng.normal(0, 0.02, 3)
    add = (_excavator, _wheel_loader, _roller)[rng.integers(3)]
    add(model, yellow)
    return model


def _excavator(model: Model, yellow: np.ndarray) -> None:
    for side in _SIDES:
        track = (0, side * 0.95, 0.45)
        model.box(track, (3.4, 0.5, 0.9), Mat.RUBBER, (0.12, 0.11, 0.1), taper=(0.1, 0.0))
    model.box(
        (-0.6, 0, 1.4),
        (2.8, 2.3, 1.0),
        Mat.PAINT,
        yellow,
        taper=(0.08, 0.05),
    )
    model.box((0.5, 0.6, 2.35), (1.4, 1.0, 1.0), Mat.CABIN, yellow, taper=(0.15, 0.05))
    boom = rotation(pitch=-0.7)
    model.box((1.9, -0.35, 2.5), (2.9, 0.35, 0.5), Mat.PAINT, yellow, axes=boom)
    stick = rotation(pitch=-0.35)
    model.box((3.4, -0.35, 2.5), (0.35, 0.3, 2.6), Mat.PAINT, yellow, axes=stick)
    bucket = (3.6, -0.35, 0.9)
    model.box(bucket, (0.8, 1.0, 0.7), Mat.METAL, _GREY, taper=(0.3, 0.0))


def _wheel_loader(model: Model, yellow: np.ndarray) -> None:
    model.box(
        (-0.9, 0, 1.25),
        (2.6, 2.0, 1.1),
        Mat.PAINT,
        yellow,
        taper=(0.1, 0.05),
    )
    model.box((0.3, 0, 2.3), (1.5, 1.4, 1.4), Mat.CABIN, yellow, taper=(0.15, 0.1))
    _wheels(model, (1.4, -1.5), 1.2, 0.75, 0.55)
    lifted = rotation(pitch=0.35)
    for side in _SIDES:
        arm = (2.1, side * 0.5, 1.1)
        model.box(arm, (2.2, 0.25, 0.35), Mat.PAINT, yellow, axes=lifted)
    shovel = (3.2, 0, 0.55)
    model.box(shovel, (1.0, 2.4, 0.9), Mat.METAL, (0.6, 0.45, 0.1), taper=(0.4, 0.0))


def _roller(model: Model, yellow: np.ndarray) -> None:
    model.box(
        (-0.6, 0, 1.1),
        (2.6, 1.9, 1.0),
        Mat.PAINT,
        yellow,
        taper=(0.1, 0.05),
    )
    model.box(
        (-0.3, 0, 2.2),
        (1.5, 1.5, 1.2),
        Mat.CABIN,
        yellow,
        taper=(0.1, 0.05),
    )
    drum = (1.6, 0, 0.7)
    model.cylinder(drum, 0.7, 2.1, Mat.METAL, (0.35, 0.34, 0.33), axes=_ACROSS)
    model.box((1.2, 0, 1.1), (1.9, 2.2, 0.25), Mat.PAINT, yellow)
    _wheels(model, (-1.4,), 1.05, 0.7, 0.5)


def motorcycle(rng: np.random.Generator, rider: bool) -> Model:
    """Model a motorcycle or scooter, with or without its rider."""
    model = _model(Cls.MOTORCYCLIST if rider else Cls.MOTORCYCLE, rng)
    paint = _paint(rng)
    for x in (-0.68, 0.68):
        model.cylinder((x, 0, 0.31), 0.31, 0.15, Mat.RUBBER, _BLACK, axes=_ACROSS)
    model.box((0, 0, 0.5), (0.7, 0.34, 0.45), Mat.METAL, _GREY)
    tank = (0.15, 0, 0.85)
    model.ellipsoid(tank, (0.36, 0.2, 0.18), Mat.PAINT, paint)
    saddle = (-0.45, 0, 0.82)
    model.box(saddle, (0.75, 0.28, 0.12), Mat.RUBBER, _BLACK)
    rake = rotation(pitch=-0.4)
    model.box((0.55, 0, 0.95), (0.12, 0.4, 0.3), Mat.PAINT, paint, axes=rake)
    handlebar = (0.42, 0, 1.08)
    model.cylinder(handlebar, 0.025, 0.74, Mat.METAL, _GREY, axes=_ACROSS)
    for side in _SIDES:
        fork = (0.62, side * 0.1, 0.65)
        model.cylinder(fork, 0.035, 0.75, Mat.METAL, _GREY, axes=rake)
    if rider:
        add_rider(model, rng, seat=0.86, lean=0.25, helmet=True)
    return model


# (x, z) m of both ends of each tube of a bicycle's frame
_TUBES = (
    ((0.12, 0.72), (0.42, 0.74)),
    ((0.12, 0.46), (-0.15, 0.3)),
    ((-0.12, 0.55), (-0.2, 0.85)),
    ((0.5, 0.36), (0.4, 0.95)),
    ((-0.5, 0.35), (-0.16, 0.3)),
)


def bicycle(rng: np.random.Generator, rider: bool) -> Model:
    """Model a bicycle, with or without its rider."""
    model = _model(Cls.BICYCLIST if rider else Cls.BICYCLE, rng)
    paint = _paint(rng)
    for x in (-0.52, 0.52):
        model.cylinder((x, 0, 0.34), 0.34, 0.05, Mat.RUBBER, _BLACK, axes=_ACROSS)
    for (x, z), (end_x, end_z) in _TUBES:
        middle = ((x + end_x) / 2, 0, (z + end_z) / 2)
        length = math.hypot(end_x - x, end_z - z)
        lean = rotation(pitch=math.atan2(end_x - x, end_z - z))
        model.cylinder(middle, 0.035, length, Mat.METAL, paint, axes=lean)
    level = rotation(pitch=math.pi / 2)
    model.cylinder((0.12, 0, 0.7), 0.035, 0.6, Mat.METAL, paint, axes=level)
    saddle = (-0.2, 0, 0.9)
    model.box(saddle, (0.26, 0.16, 0.07), Mat.RUBBER, _BLACK)
    handlebar = (0.4, 0, 0.98)
    model.cylinder(handlebar, 0.02, 0.56, Mat.METAL, _GREY, axes=_ACROSS)
    if rider:
        add_rider(model, rng, seat=0.92, lean=0.3, helmet=bool(rng.random() < 0.5))
    return model


def ego_body() -> Model:
    """Model the recording car as its own laser sees it; origin below the middle of the rear axle."""
    model = Model(Cls.EGO)
    model.box((1.35, 0, 0.62), (4.0, 1.74, 0.8), Mat.PAINT, _EGO_PAINT, taper=(0.05, 0.1))
    model.box((1.0, 0, 1.26), (2.2, 1.6, 0.5), Mat.CABIN, _EGO_PAINT, taper=(0.3, 0.25))
    return model


BUILDERS: dict[Cls, Callable[[np.random.Generator], Model]] = {
    Cls.CAR: car,
    Cls.TRUCK: truck,
    Cls.BUS: bus,
    Cls.TRAILER: trailer,
    Cls.CONSTRUCTION: construction,
}

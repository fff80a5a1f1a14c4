"""Models of everything on wheels. x forward, y left, z up from the ground, metres; all sizes drawn from ``rng``."""

from __future__ import annotations

import math

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

_PAINTS = np.array(
    [
        (0.85, 0.85, 0.86),
        (0.1, 0.1, 0.11),
        (0.45, 0.46, 0.48),
        (0.6, 0.08, 0.08),
        (0.1, 0.2, 0.5),
        (0.16, 0.32, 0.2),
    ]
    + [(0.7, 0.66, 0.55), (0.72, 0.73, 0.75), (0.3, 0.12, 0.08), (0.05, 0.3, 0.45)]
)
_BLACK, _GREY, _GLASS = (0.05, 0.05, 0.05), (0.3, 0.3, 0.32), (0.08, 0.1, 0.12)
_ACROSS = rotation(roll=math.pi / 2)  # turns a cylinder's axis sideways


def _paint(rng: np.random.Generator) -> np.ndarray:
    return np.clip(_PAINTS[rng.integers(len(_PAINTS))] + rng.normal(0, 0.03, 3), 0.02, 0.97)


def _model(cls: Cls, rng: np.random.Generator) -> Model:
    return Model(cls, reflectance_scale=float(rng.uniform(0.75, 1.3)))


def _wheels(
    model: Model, xs: tuple[float, ...], half_width: float, radius: float, width: float
) -> None:
    for x in xs:
        for side in (-1, 1):
            y = side * (half_width - width / 2)
            model.cylinder((x, y, radius), radius, width, Mat.RUBBER, _BLACK, axes=_ACROSS)


def car(rng: np.random.Generator) -> Model:
    """A saloon, hatchback or van."""
    model, paint = _model(Cls.CAR, rng), _paint(rng)
    van = rng.random() < 0.2
    length, width = rng.uniform(3.9, 4.9) + 0.3 * van, rng.uniform(1.7, 1.9)
    height = rng.uniform(1.9, 2.2) if van else rng.uniform(1.4, 1.7)
    belt = 0.95 if not van else 1.15
    model.box(
        (0, 0, (0.22 + belt) / 2), (length, width, belt - 0.22), Mat.PAINT, paint, taper=(0.04, 0.1)
    )
    cabin = length * (0.8 if van else rng.uniform(0.5, 0.62))
    shift = -0.09 * length if van else -0.06 * length
    model.box(
        (shift, 0, (belt + height) / 2),
        (cabin, width * 0.94, height - belt),
        Mat.CABIN,
        paint,
        taper=(0.25, 0.18),
    )
    _wheels(model, (0.31 * length, -0.3 * length), width / 2, 0.33, 0.24)
    for side in (-1, 1):
        model.box(
            (length / 2 - 0.03, side * width * 0.36, 0.68),
            (0.08, 0.3, 0.14),
            Mat.GLASS,
            (0.95, 0.95, 0.9),
        )
        model.box(
            (0.03 - length / 2, side * width * 0.38, 0.76),
            (0.08, 0.26, 0.16),
            Mat.PAINT,
            (0.75, 0.03, 0.03),
        )
        model.box(
            (0.02 * length + 0.45, side * (width / 2 + 0.06), 1.0),
            (0.14, 0.16, 0.12),
            Mat.PAINT,
            paint,
        )
    model.box((0.02 - length / 2, 0, 0.55), (0.06, 0.5, 0.12), Mat.RETRO, (0.9, 0.9, 0.88))
    return model


def truck(rng: np.random.Generator) -> Model:
    """A rigid lorry: cab and box body, the body as large and smooth as a bus's."""
    model, paint, cargo = _model(Cls.TRUCK, rng), _paint(rng), _paint(rng)
    length, width, height = rng.uniform(7.0, 10.0), rng.uniform(2.3, 2.5), rng.uniform(2.9, 3.5)
    front = length / 2
    cab_top = height * rng.uniform(0.78, 0.95)
    model.box((front - 0.95, 0, (0.5 + 1.6) / 2), (1.9, width * 0.97, 1.1), Mat.PAINT, paint)
    cab = (1.84, width * 0.96, cab_top - 1.6)
    model.box((front - 0.98, 0, (1.6 + cab_top) / 2), cab, Mat.CABIN, paint, taper=(0.12, 0.05))
    body = length - 2.1
    model.box(
        (-front + body / 2, 0, (0.95 + height) / 2), (body, width, height - 0.95), Mat.PAINT, cargo
    )
    model.box((-0.2, 0, 0.78), (length - 0.8, width * 0.5, 0.34), Mat.METAL, _GREY)
    _wheels(model, (front - 1.2, -front + 1.4, -front + 2.5), width / 2, 0.48, 0.3)
    for side in (-1, 1):
        model.box(
            (-front + 0.02, side * width * 0.4, 0.8),
            (0.06, 0.3, 0.16),
            Mat.PAINT,
            (0.75, 0.03, 0.03),
        )
        model.box(
            (front + 0.02, side * width * 0.38, 0.8),
            (0.06, 0.34, 0.16),
            Mat.GLASS,
            (0.95, 0.95, 0.9),
        )
    return model


def bus(rng: np.random.Generator) -> Model:
    """A city bus: one box with a band of windows."""
    liveries = [(0.75, 0.12, 0.1), (0.12, 0.35, 0.65), (0.9, 0.72, 0.1), (0.1, 0.5, 0.3)]
    model, paint = _model(Cls.BUS, rng), np.array(liveries[rng.integers(4)])
    length, width, height = rng.uniform(9.5, 11.5), 2.5, rng.uniform(2.9, 3.3)
    front = length / 2
    model.box(
        (0, 0, (0.35 + height) / 2),
        (length, width, height - 0.35),
        Mat.COACH,
        paint,
        taper=(0.02, 0.03),
    )
    model.box((-0.2 * length, 0, height + 0.1), (1.8, 1.5, 0.2), Mat.PAINT, (0.8, 0.8, 0.8))
    _wheels(model, (front - 2.4, -front + 2.6), width / 2 + 0.01, 0.48, 0.3)
    model.box((front - 0.02, 0, height - 0.35), (0.1, 1.6, 0.3), Mat.PAINT, (0.95, 0.6, 0.1))
    for side in (-1, 1):
        model.box((front, side * 0.9, 0.75), (0.06, 0.35, 0.18), Mat.GLASS, (0.95, 0.95, 0.9))
        model.box((-front, side * 1.0, 0.9), (0.06, 0.2, 0.3), Mat.PAINT, (0.75, 0.03, 0.03))
    return model


def trailer(rng: np.random.Generator) -> Model:
    """A parked box or flatbed trailer, without a tractor."""
    model, cargo = _model(Cls.TRAILER, rng), _paint(rng)
    length, width = rng.uniform(6.5, 9.5), 2.45
    height = rng.uniform(2.9, 3.5) if rng.random() < 0.7 else rng.uniform(1.6, 2.1)
    model.box((-0.4, 0, (1.0 + height) / 2), (length - 0.8, width, height - 1.0), Mat.PAINT, cargo)
    model.box((0, 0, 0.86), (length, 0.9, 0.24), Mat.METAL, _GREY)
    _wheels(model, (-length / 2 + 1.2, -length / 2 + 2.3), width / 2, 0.48, 0.3)
    for side in (-1, 1):
        model.box((length / 2 - 1.6, side * 0.7, 0.43), (0.14, 0.14, 0.86), Mat.METAL, _GREY)
        model.box(
            (-length / 2 + 0.01, side * 0.9, 0.9), (0.06, 0.4, 0.16), Mat.STRIPES, (0.8, 0.05, 0.05)
        )
    return model


def construction(rng: np.random.Generator) -> Model:
    """A yellow excavator, wheel loader or roller."""
    model, yellow = (
        _model(Cls.CONSTRUCTION, rng),
        np.array((0.92, 0.68, 0.08)) + rng.normal(0, 0.02, 3),
    )
    kind = rng.integers(3)
    if kind == 0:
        for side in (-1, 1):
            model.box(
                (0, side * 0.95, 0.45),
                (3.4, 0.5, 0.9),
                Mat.RUBBER,
                (0.12, 0.11, 0.1),
                taper=(0.1, 0.0),
            )
        model.box((-0.6, 0, 1.4), (2.8, 2.3, 1.0), Mat.PAINT, yellow, taper=(0.08, 0.05))
        model.box((0.5, 0.6, 2.35), (1.4, 1.0, 1.0), Mat.CABIN, yellow, taper=(0.15, 0.05))
        model.box((1.9, -0.35, 2.5), (2.9, 0.35, 0.5), Mat.PAINT, yellow, axes=rotation(pitch=-0.7))
        model.box(
            (3.4, -0.35, 2.5), (0.35, 0.3, 2.6), Mat.PAINT, yellow, axes=rotation(pitch=-0.35)
        )
        model.box((3.6, -0.35, 0.9), (0.8, 1.0, 0.7), Mat.METAL, _GREY, taper=(0.3, 0.0))
    elif kind == 1:
        model.box((-0.9, 0, 1.25), (2.6, 2.0, 1.1), Mat.PAINT, yellow, taper=(0.1, 0.05))
        model.box((0.3, 0, 2.3), (1.5, 1.4, 1.4), Mat.CABIN, yellow, taper=(0.15, 0.1))
        _wheels(model, (1.4, -1.5), 1.2, 0.75, 0.55)
        for side in (-1, 1):
            model.box(
                (2.1, side * 0.5, 1.1),
                (2.2, 0.25, 0.35),
                Mat.PAINT,
                yellow,
                axes=rotation(pitch=0.35),
            )
        model.box((3.2, 0, 0.55), (1.0, 2.4, 0.9), Mat.METAL, (0.6, 0.45, 0.1), taper=(0.4, 0.0))
    else:
        model.box((-0.6, 0, 1.1), (2.6, 1.9, 1.0), Mat.PAINT, yellow, taper=(0.1, 0.05))
        model.box((-0.3, 0, 2.2), (1.5, 1.5, 1.2), Mat.CABIN, yellow, taper=(0.1, 0.05))
        model.cylinder((1.6, 0, 0.7), 0.7, 2.1, Mat.METAL, (0.35, 0.34, 0.33), axes=_ACROSS)
        model.box((1.2, 0, 1.1), (1.9, 2.2, 0.25), Mat.PAINT, yellow)
        _wheels(model, (-1.4,), 1.05, 0.7, 0.5)
    return model


def motorcycle(rng: np.random.Generator, rider: bool) -> Model:
    """A motorcycle or scooter, with or without its rider."""
    model, paint = _model(Cls.MOTORCYCLIST if rider else Cls.MOTORCYCLE, rng), _paint(rng)
    for x in (-0.68, 0.68):
        model.cylinder((x, 0, 0.31), 0.31, 0.15, Mat.RUBBER, _BLACK, axes=_ACROSS)
    model.box((0, 0, 0.5), (0.7, 0.34, 0.45), Mat.METAL, _GREY)
    model.ellipsoid((0.15, 0, 0.85), (0.36, 0.2, 0.18), Mat.PAINT, paint)
    model.box((-0.45, 0, 0.82), (0.75, 0.28, 0.12), Mat.RUBBER, _BLACK)
    model.box((0.55, 0, 0.95), (0.12, 0.4, 0.3), Mat.PAINT, paint, axes=rotation(pitch=-0.4))
    model.cylinder((0.42, 0, 1.08), 0.025, 0.74, Mat.METAL, _GREY, axes=_ACROSS)
    for side in (-1, 1):
        model.cylinder(
            (0.62, side * 0.1, 0.65), 0.035, 0.75, Mat.METAL, _GREY, axes=rotation(pitch=-0.4)
        )
    if rider:
        add_rider(model, rng, seat=0.86, lean=0.25, helmet=True)
    return model


def bicycle(rng: np.random.Generator, rider: bool) -> Model:
    """A bicycle, with or without its rider."""
    model, paint = _model(Cls.BICYCLIST if rider else Cls.BICYCLE, rng), _paint(rng)
    for x in (-0.52, 0.52):
        model.cylinder((x, 0, 0.34), 0.34, 0.05, Mat.RUBBER, _BLACK, axes=_ACROSS)
    tubes = (
        ((0.12, 0.72), (0.42, 0.74)),
        ((0.12, 0.46), (-0.15, 0.3)),
        ((-0.12, 0.55), (-0.2, 0.85)),
    )
    for (x, z), (ex, ez) in tubes + (((0.5, 0.36), (0.4, 0.95)), ((-0.5, 0.35), (-0.16, 0.3))):
        length = math.hypot(ex - x, ez - z)
        lean = rotation(pitch=math.atan2(ex - x, ez - z))
        model.cylinder(((x + ex) / 2, 0, (z + ez) / 2), 0.035, length, Mat.METAL, paint, axes=lean)
    model.cylinder((0.12, 0, 0.7), 0.035, 0.6, Mat.METAL, paint, axes=rotation(pitch=math.pi / 2))
    model.box((-0.2, 0, 0.9), (0.26, 0.16, 0.07), Mat.RUBBER, _BLACK)
    model.cylinder((0.4, 0, 0.98), 0.02, 0.56, Mat.METAL, _GREY, axes=_ACROSS)
    if rider:
        add_rider(model, rng, seat=0.92, lean=0.3, helmet=bool(rng.random() < 0.5))
    return model


def ego_body() -> Model:
    """The recording car as its own laser sees it; origin below the middle of the rear axle."""
    model = Model(Cls.EGO)
    model.box((1.35, 0, 0.62), (4.0, 1.74, 0.8), Mat.PAINT, (0.9, 0.9, 0.9), taper=(0.05, 0.1))
    model.box((1.0, 0, 1.26), (2.2, 1.6, 0.5), Mat.CABIN, (0.9, 0.9, 0.9), taper=(0.3, 0.25))
    return model


BUILDERS = {
    Cls.CAR: car,
    Cls.TRUCK: truck,
    Cls.BUS: bus,
    Cls.TRAILER: trailer,
    Cls.CONSTRUCTION: construction,
}

"""Models of people, on foot and on two wheels."""

from __future__ import annotations

import math

import numpy as np

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.materials import Mat
from core.datasets.synthetic.solids import Model, rotation

__all__ = ["add_rider", "pedestrian"]

_SKINS = np.array([(0.87, 0.68, 0.55), (0.55, 0.38, 0.27), (0.75, 0.56, 0.42), (0.36, 0.24, 0.17)])
_CLOTHES = np.array(
    [
        (0.15, 0.15, 0.18),
        (0.4, 0.4, 0.42),
        (0.7, 0.15, 0.15),
        (0.15, 0.25, 0.5),
        (0.85, 0.85, 0.82),
        (0.3, 0.35, 0.22),
    ]
    + [(0.55, 0.55, 0.57), (0.8, 0.7, 0.2), (0.35, 0.2, 0.4), (0.5, 0.35, 0.22)]
)
_ORANGE = (0.98, 0.42, 0.05)


def _cloth(rng: np.random.Generator) -> np.ndarray:
    return np.clip(_CLOTHES[rng.integers(len(_CLOTHES))] + rng.normal(0, 0.04, 3), 0.02, 0.98)


def pedestrian(rng: np.random.Generator, cls: Cls = Cls.ADULT, walking: bool = False) -> Model:
    """A standing or walking person facing x; a worker wears orange and a yellow helmet."""
    model = Model(cls, reflectance_scale=float(rng.uniform(0.7, 1.3)))
    height = rng.uniform(1.05, 1.35) if cls == Cls.CHILD else rng.uniform(1.6, 1.9)
    k = height / 1.75
    skin = _SKINS[rng.integers(len(_SKINS))]
    coat, legs, hair = (
        _cloth(rng),
        _cloth(rng) * 0.7,
        rng.uniform(0.04, 0.4) * np.array([1.0, 0.8, 0.6]),
    )
    if cls == Cls.WORKER:
        coat, hair = np.array(_ORANGE), np.array((0.95, 0.8, 0.1))
    stride = 0.3 if walking else 0.05
    for side in (-1, 1):
        swing = rotation(pitch=side * stride)
        foot = -side * math.sin(stride) * 0.42
        model.cylinder(
            (foot * k, side * 0.1 * k, 0.43 * k), 0.085 * k, 0.84 * k, Mat.CLOTH, legs, axes=swing
        )
        model.box(
            ((2 * foot + 0.05) * k, side * 0.1 * k, 0.04 * k),
            (0.26 * k, 0.1 * k, 0.08 * k),
            Mat.RUBBER,
            legs * 0.5,
        )
        arm = rotation(pitch=-side * stride * 0.8, roll=-side * 0.12)
        model.cylinder((0, side * 0.27 * k, 1.13 * k), 0.05 * k, 0.6 * k, Mat.CLOTH, coat, axes=arm)
    model.box((0, 0, 1.14 * k), (0.24 * k, 0.42 * k, 0.62 * k), Mat.CLOTH, coat, taper=(0.05, 0.0))
    if cls == Cls.WORKER:
        model.box((0, 0, 1.1 * k), (0.25 * k, 0.44 * k, 0.06 * k), Mat.RETRO, (0.9, 0.9, 0.85))
    model.ellipsoid((0.01, 0, 1.6 * k), (0.1 * k, 0.08 * k, 0.13 * k), Mat.CLOTH, skin)
    model.ellipsoid((-0.02 * k, 0, 1.66 * k), (0.105 * k, 0.09 * k, 0.09 * k), Mat.CLOTH, hair)
    return model


def add_rider(
    model: Model, rng: np.random.Generator, seat: float, lean: float, helmet: bool
) -> None:
    """Put a person on a saddle at height ``seat`` (m), leaning forward by ``lean`` (rad)."""
    coat, legs, skin = _cloth(rng), _cloth(rng) * 0.7, _SKINS[rng.integers(len(_SKINS))]
    hip, reach = -0.2, 0.55
    top = (hip + reach * math.sin(lean), seat + reach * math.cos(lean))
    torso = ((hip + top[0]) / 2, 0, (seat + top[1]) / 2)
    model.box(
        torso, (0.24, 0.4, reach), Mat.CLOTH, coat, axes=rotation(pitch=lean), taper=(0.0, 0.0)
    )
    for side in (-1, 1):
        model.cylinder(
            (0.02, side * 0.15, seat - 0.08), 0.08, 0.5, Mat.CLOTH, legs, axes=rotation(pitch=1.9)
        )
        model.cylinder(
            (0.18, side * 0.15, seat - 0.4), 0.065, 0.5, Mat.CLOTH, legs, axes=rotation(pitch=0.15)
        )
        arm = rotation(pitch=2.2)
        model.cylinder(
            (top[0] + 0.2, side * 0.23, top[1] - 0.16), 0.05, 0.55, Mat.CLOTH, coat, axes=arm
        )
    model.ellipsoid((top[0] + 0.05, 0, top[1] + 0.16), (0.11, 0.09, 0.13), Mat.CLOTH, skin)
    crown = (0.85, 0.1, 0.1) if helmet else (0.15, 0.1, 0.08)
    size = (0.15, 0.13, 0.12) if helmet else (0.11, 0.095, 0.09)
    model.ellipsoid(
        (top[0] + 0.03, 0, top[1] + 0.21), size, Mat.PAINT if helmet else Mat.CLOTH, crown
    )

"""Models of people, on foot and on two wheels."""

from __future__ import annotations

import math

import numpy as np

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.materials import Mat
from core.datasets.synthetic.solids import Model, rotation

__all__ = ["add_rider", "pedestrian"]

# sRGB, 0..1
_SKINS = np.array(
    [
        (0.87, 0.68, 0.55),
        (0.55, 0.38, 0.27),
        (0.75, 0.56, 0.42),
        (0.36, 0.24, 0.17),
    ]
)
_CLOTHES = np.array(
    [
        (0.15, 0.15, 0.18),
        (0.4, 0.4, 0.42),
        (0.7, 0.15, 0.15),
        (0.15, 0.25, 0.5),
        (0.85, 0.85, 0.82),
        (0.3, 0.35, 0.22),
        (0.55, 0.55, 0.57),
        (0.8, 0.7, 0.2),
        (0.35, 0.2, 0.4),
        (0.5, 0.35, 0.22),
    ]
)
_HAIR = np.array([1.0, 0.8, 0.6])
_ORANGE = (0.98, 0.42, 0.05)
_YELLOW_HELMET = (0.95, 0.8, 0.1)
_RED_HELMET = (0.85, 0.1, 0.1)
_DARK_HAIR = (0.15, 0.1, 0.08)


def _cloth(rng: np.random.Generator) -> np.ndarray:
    colour = _CLOTHES[rng.integers(len(_CLOTHES))]
    return np.clip(colour + rng.normal(0, 0.04, 3), 0.02, 0.98)


def pedestrian(rng: np.random.Generator, cls: Cls = Cls.ADULT, walking: bool = False) -> Model:
    """Model a standing or walking person facing x; a worker wears orange and a yellow helmet."""
    model = Model(cls, reflectance_scale=float(rng.uniform(0.7, 1.3)))
    if cls == Cls.CHILD:
        height = rng.uniform(1.05, 1.35)
    else:
        height = rng.uniform(1.6, 1.9)
    k = height / 1.75  # sizes below are those of a person of 1.75 m
    skin = _SKINS[rng.integers(len(_SKINS))]
    coat = _cloth(rng)
    legs = _cloth(rng) * 0.7
    hair = rng.uniform(0.04, 0.4) * _HAIR
    if cls == Cls.WORKER:
        coat = np.array(_ORANGE)
        hair = np.array(_YELLOW_HELMET)
    stride = 0.3 if walking else 0.05  # rad, each leg's swing
    for side in (-1, 1):
        _limbs(model, k, side, stride, coat, legs)
    model.box(
        (0, 0, 1.14 * k),
        (0.24 * k, 0.42 * k, 0.62 * k),
        Mat.CLOTH,
        coat,
        taper=(0.05, 0.0),
    )
    if cls == Cls.WORKER:
        band = (0.25 * k, 0.44 * k, 0.06 * k)
        model.box(
            (0, 0, 1.1 * k),
            band,
            Mat.RETRO,
            (0.9, 0.9, 0.85),
        )
    face = (0.1 * k, 0.08 * k, 0.13 * k)
    model.ellipsoid((0.01, 0, 1.6 * k), face, Mat.CLOTH, skin)
    crown = (0.105 * k, 0.09 * k, 0.09 * k)
    model.ellipsoid(
        (-0.02 * k, 0, 1.66 * k),
        crown,
        Mat.CLOTH,
        hair,
    )
    return model


def _limbs(
    model: Model, k: float, side: int, stride: float, coat: np.ndarray, legs: np.ndarray
) -> None:
    """Add leg, shoe and arm of one side (-1 right, 1 left)."""
    foot = -side * math.sin(stride) * 0.42
    model.cylinder(
        (foot * k, side * 0.1 * k, 0.43 * k),
        0.085 * k,
        0.84 * k,
        Mat.CLOTH,
        legs,
        axes=rotation(pitch=side * stride),
    )
    model.box(
        ((2 * foot + 0.05) * k, side * 0.1 * k, 0.04 * k),
        (0.26 * k, 0.1 * k, 0.08 * k),
        Mat.RUBBER,
        legs * 0.5,
    )
    model.cylinder(
        (0, side * 0.27 * k, 1.13 * k),
        0.05 * k,
        0.6 * k,
        Mat.CLOTH,
        coat,
        axes=rotation(pitch=-side * stride * 0.8, roll=-side * 0.12),
    )


def add_rider(
    model: Model, rng: np.random.Generator, seat: float, lean: float, helmet: bool
) -> None:
    """Put a person on a saddle at height ``seat`` (m), leaning forward by ``lean`` (rad)."""
    coat = _cloth(rng)
    legs = _cloth(rng) * 0.7
    skin = _SKINS[rng.integers(len(_SKINS))]
    hip, back = -0.2, 0.55  # m, where the hip sits along x, length of the back
    neck_x = hip + back * math.sin(lean)
    neck_z = seat + back * math.cos(lean)
    model.box(
        ((hip + neck_x) / 2, 0, (seat + neck_z) / 2),
        (0.24, 0.4, back),
        Mat.CLOTH,
        coat,
        axes=rotation(pitch=lean),
    )
    for side in (-1, 1):
        thigh = (0.02, side * 0.15, seat - 0.08)
        model.cylinder(thigh, 0.08, 0.5, Mat.CLOTH, legs, axes=rotation(pitch=1.9))
        shin = (0.18, side * 0.15, seat - 0.4)
        model.cylinder(shin, 0.065, 0.5, Mat.CLOTH, legs, axes=rotation(pitch=0.15))
        arm = (neck_x + 0.2, side * 0.23, neck_z - 0.16)
        model.cylinder(arm, 0.05, 0.55, Mat.CLOTH, coat, axes=rotation(pitch=2.2))
    model.ellipsoid(
        (neck_x + 0.05, 0, neck_z + 0.16),
        (0.11, 0.09, 0.13),
        Mat.CLOTH,
        skin,
    )
    crown = (neck_x + 0.03, 0, neck_z + 0.21)
    if helmet:
        model.ellipsoid(crown, (0.15, 0.13, 0.12), Mat.PAINT, _RED_HELMET)
    else:
        model.ellipsoid(crown, (0.11, 0.095, 0.09), Mat.CLOTH, _DARK_HAIR)

"""Augmentation of a point cloud: small functions of (points, rng), their order, and given changes in place of draws.

Flip, rotation and scale are those of Yan et al., "2DPASS" (ECCV 2022) and of the SPVNAS family before it. Every draw
comes from the generator handed in, so a sample is a function of that generator's seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.data.config import AugmentConfig, FlipAxes

__all__ = [
    "UNCHANGED",
    "Change",
    "augment",
    "draw_change",
    "draw_kept",
    "flip",
    "move",
    "rotate",
    "scale",
    "translate",
]

Degrees = tuple[float, float]


@dataclass(frozen=True)
class Change:
    """One change of a whole point cloud, in this order; by default none.

    Attributes:
        flip: axes whose coordinates are negated. degrees: counter-clockwise about z. scale: factors of x, y, z.
        shift: m, along x, y, z.
    """

    flip: FlipAxes = "none"
    degrees: float = 0.0
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)


UNCHANGED = Change()


def move(points: np.ndarray, change: Change) -> np.ndarray:
    """Apply a given change; f32 [N, 3] m -> the same, the very input where nothing changes."""
    if change.flip != "none":
        signs = np.ones(3, np.float32)
        if "x" in change.flip:
            signs[0] = -1
        if "y" in change.flip:
            signs[1] = -1
        points = points * signs
    if change.degrees:
        angle = np.deg2rad(change.degrees)
        cos = np.float32(np.cos(angle))
        sin = np.float32(np.sin(angle))
        x, y, z = points.T
        points = np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=1)
    if change.scale != (1.0, 1.0, 1.0):
        points = points * np.array(change.scale, np.float32)
    if any(change.shift):
        points = points + np.array(change.shift, np.float32)
    return points


def flip(points: np.ndarray, rng: np.random.Generator, choices: Sequence[FlipAxes]) -> np.ndarray:
    """Negate x, y, both or none, drawn with equal chance from ``choices``; f32 [N, 3] m -> the same."""
    return move(points, Change(flip=_draw_flip(rng, choices)))


def rotate(
    points: np.ndarray, rng: np.random.Generator, degrees: Degrees = (-180.0, 180.0)
) -> np.ndarray:
    """Turn counter-clockwise about z by an angle uniform in ``degrees``; f32 [N, 3] m -> the same."""
    return move(points, Change(degrees=rng.uniform(*degrees)))


def scale(
    points: np.ndarray,
    rng: np.random.Generator,
    factors: tuple[float, float] = (0.95, 1.05),
    *,
    z: bool = True,
) -> np.ndarray:
    """Multiply x, y (and ``z``) by a factor uniform in ``factors``; f32 [N, 3] m -> the same."""
    return move(points, Change(scale=_draw_scale(rng, factors, z)))


def translate(
    points: np.ndarray, rng: np.random.Generator, std: Sequence[float] = (0.1, 0.1, 0.1)
) -> np.ndarray:
    """Shift all points by one normal draw of standard deviations ``std`` (m); f32 [N, 3] m -> the same."""
    return move(points, Change(shift=_draw_shift(rng, std)))


def _draw_flip(rng: np.random.Generator, choices: Sequence[FlipAxes]) -> FlipAxes:
    return choices[int(rng.integers(len(choices)))]


def _draw_scale(
    rng: np.random.Generator, factors: tuple[float, float], z: bool
) -> tuple[float, float, float]:
    factor = rng.uniform(*factors)
    return factor, factor, factor if z else 1.0


def _draw_shift(rng: np.random.Generator, std: Sequence[float]) -> tuple[float, float, float]:
    return tuple(rng.normal(0.0, std).tolist())


def draw_change(rng: np.random.Generator, config: AugmentConfig) -> Change:
    """Draw flip, rotation, scale and shift, as far as ``config`` asks for them."""
    flip = UNCHANGED.flip
    degrees = UNCHANGED.degrees
    scale = UNCHANGED.scale
    shift = UNCHANGED.shift
    if config.flip_choices:
        flip = _draw_flip(rng, config.flip_choices)
    if config.rotate_range is not None:
        degrees = rng.uniform(*config.rotate_range)
    if config.scale is not None:
        scale = _draw_scale(rng, config.scale, config.scale_z)
    if config.translate_std is not None:
        shift = _draw_shift(rng, config.translate_std)
    return Change(flip, degrees, scale, shift)


def augment(points: np.ndarray, rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """Flip, rotate, scale, translate, as far as ``config`` asks for them.

    Args:
        points: f32 [N, 3] m.

    Returns:
        f32 [N, 3] m; the input is not written to.
    """
    return move(points, draw_change(rng, config))


def draw_kept(count: int, rng: np.random.Generator, dropout: float) -> np.ndarray:
    """Draw which of ``count`` points stay: bool [count]; a share uniform in [0, dropout] leaves, never the last."""
    kept = rng.random(count) >= rng.uniform(0.0, dropout)
    if count and not kept.any():
        kept[int(rng.integers(count))] = True
    return kept

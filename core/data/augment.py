"""Augmentation of a point cloud: small functions of (points, rng), and their order.

Flip, rotation and scale are those of Yan et al., "2DPASS" (ECCV 2022) and of the SPVNAS family before it. Every draw
comes from the generator handed in, so a sample is a function of that generator's seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.data.config import AugmentConfig, FlipAxes

__all__ = ["augment", "draw_kept", "flip", "rotate", "scale", "translate"]

Degrees = tuple[float, float]


def flip(points: np.ndarray, rng: np.random.Generator, choices: Sequence[FlipAxes]) -> np.ndarray:
    """Negate x, y, both or none, drawn with equal chance from ``choices``; f32 [N, 3] m -> the same."""
    axes = choices[int(rng.integers(len(choices)))]
    signs = np.array([-1 if "x" in axes else 1, -1 if "y" in axes else 1, 1], np.float32) if axes != "none" else 1
    return points * np.float32(signs)


def rotate(points: np.ndarray, rng: np.random.Generator, degrees: Degrees = (-180.0, 180.0)) -> np.ndarray:
    """Turn counter-clockwise about z by an angle uniform in ``degrees``; f32 [N, 3] m -> the same."""
    angle = np.deg2rad(rng.uniform(*degrees))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y, z = points.T
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=1)


def scale(points: np.ndarray, rng: np.random.Generator, factors: tuple[float, float] = (0.95, 1.05)) -> np.ndarray:
    """Multiply by a factor uniform in ``factors``; f32 [N, 3] m -> the same."""
    return points * np.float32(rng.uniform(*factors))


def translate(points: np.ndarray, rng: np.random.Generator, std: Sequence[float] = (0.1, 0.1, 0.1)) -> np.ndarray:
    """Shift all points by one normal draw of standard deviations ``std`` (m); f32 [N, 3] m -> the same."""
    return points + rng.normal(0.0, std).astype(np.float32)


def augment(points: np.ndarray, rng: np.random.Generator, config: AugmentConfig) -> np.ndarray:
    """Flip, rotate, scale, translate, as far as ``config`` asks for them.

    Args:
        points: f32 [N, 3] m.

    Returns:
        f32 [N, 3] m; the input is not written to.
    """
    if config.flip_choices:
        points = flip(points, rng, config.flip_choices)
    if config.rotate_range is not None:
        points = rotate(points, rng, config.rotate_range)
    if config.scale is not None:
        points = scale(points, rng, config.scale)
    if config.translate_std is not None:
        points = translate(points, rng, config.translate_std)
    return points


def draw_kept(count: int, rng: np.random.Generator, dropout: float) -> np.ndarray:
    """Which of ``count`` points stay: bool [count]; a fraction uniform in [0, dropout] leaves, never the last point."""
    kept = rng.random(count) >= rng.uniform(0.0, dropout)
    if count and not kept.any():
        kept[int(rng.integers(count))] = True
    return kept

"""How surfaces answer a laser: what a ray met, and how likely its echo is heard."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from core.datasets.synthetic.materials import (
    DEPTH,
    DROP,
    GROUND_CLASS,
    GROUND_REFLECTANCE,
    GROUND_ROUGHNESS,
)
from core.datasets.synthetic.solids import Solids

__all__ = ["Echo", "Surfaces", "brightness", "echo", "surfaces"]


class Surfaces(NamedTuple):
    """What each ray met, [n] each: class, thing, reflectance, share of lost pulses, depth and roughness (m)."""

    cls: np.ndarray
    thing: np.ndarray
    reflectance: np.ndarray
    drop: np.ndarray
    depth: np.ndarray
    roughness: np.ndarray


def surfaces(solids: Solids, what: np.ndarray, ground: np.ndarray) -> Surfaces:
    """Look up what `cast` found: ``what`` i32 [n] and the ``ground`` material u8 [n]."""
    on_solid = what >= 0
    solid = np.maximum(what, 0)
    material = solids.material[solid]
    return Surfaces(
        cls=np.where(on_solid, solids.cls[solid], GROUND_CLASS[ground]),
        thing=np.where(on_solid, solids.thing[solid], 0),
        reflectance=np.where(on_solid, solids.reflectance[solid], GROUND_REFLECTANCE[ground]),
        drop=np.where(on_solid, DROP[material], 0.01),
        depth=np.where(on_solid, DEPTH[material], 0.0),
        roughness=np.where(on_solid, 0.0, GROUND_ROUGHNESS[ground]),
    )


class Echo(NamedTuple):
    """How pulses are answered, [n] each.

    Attributes:
        heard: bool. distance: f64 m, as measured. reflectance: f64, of the very spot. deep: f64 m, how far the pulse
            went into the surface.
    """

    heard: np.ndarray
    distance: np.ndarray
    reflectance: np.ndarray
    deep: np.ndarray


def echo(
    surface: Surfaces,
    distance: np.ndarray,
    cosine: np.ndarray,
    strength: float,
    rng: np.random.Generator,
    share: float | np.ndarray = 1.0,
) -> Echo:
    """Answer pulses: the chance to be heard falls with the square of the distance.

    Args:
        surface: what they met. distance: f64 [n] m, infinite where that is nothing. cosine: f64 [n], of incidence.
        strength: m, how far a weak surface still answers. rng: noise and drop-outs. share: of each pulse that got
            there.
    """
    count = len(distance)
    hit = np.isfinite(distance)
    reflectance = surface.reflectance * np.clip(rng.normal(1.0, 0.18, count), 0.4, 1.6)
    distance = np.where(hit, distance, 0.0)
    signal = reflectance * np.sqrt(cosine) * (strength / np.maximum(distance, 1.0)) ** 2
    answer = (1.0 - np.exp(-6.0 * share * signal)) * (1.0 - surface.drop)
    heard = hit & (rng.random(count) < answer)
    deep = surface.depth * np.minimum(rng.exponential(1.0, count), 2.5)
    # bounded, so that points stay in their boxes
    jitter = np.clip(rng.standard_normal(count), -2.0, 2.0)
    distance = distance + jitter * np.hypot(0.018, surface.roughness) + deep
    return Echo(heard, distance, reflectance, deep)


def brightness(power: np.ndarray, cosine: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Weaken an echo's ``power`` [n] by the angle of incidence and on its way of ``distance`` [n] m."""
    return power * (0.35 + 0.65 * cosine) * np.exp(-distance / 90.0)

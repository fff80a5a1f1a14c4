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

__all__ = ["Surfaces", "answers", "surfaces"]


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


def answers(
    reflectance: np.ndarray, cosine: np.ndarray, distance: np.ndarray, strength: float
) -> np.ndarray:
    """Tell how likely the echo of a pulse is heard, f64 [n]: it falls with the square of the distance.

    Args:
        reflectance: [n]. cosine: [n], of incidence. distance: [n] m. strength: m, how far a weak surface still answers.
    """
    signal = reflectance * np.sqrt(cosine) * (strength / np.maximum(distance, 1.0)) ** 2
    return 1.0 - np.exp(-6.0 * signal)

"""One camera's image on its way into a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["NO_AREA", "Picture"]

NO_AREA = -1  # column and row of a point that falls on no pixel


@dataclass(frozen=True)
class Picture:
    """One camera's image and where the points lie in it.

    Attributes:
        image: u8 [H, W, 3].
        pixels: f32 [N, 2] in [-1, 1], -1 and 1 the centres of the outermost pixels; 0 where not visible.
        visible: bool [N], between those centres.
        areas: i16 [N, 2], column and row of the pixel on whose area a point falls, -1 where on none.
        planes: [H, W] by name, maps aligned with the image.
    """

    image: np.ndarray
    pixels: np.ndarray
    visible: np.ndarray
    areas: np.ndarray
    planes: Mapping[str, np.ndarray] = field(default_factory=dict)

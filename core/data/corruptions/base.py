"""What a corruption gets and what it gives back.

A corruption is a function ``(sweep, rng) -> Returns``. It never touches labels: it says of each point which clean point
it comes from and whether its class is lost, and :func:`core.data.corruptions.corrupt` carries labels, instances and
times over. So they stay aligned whatever is moved, dropped or added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from core.errors import UserError

__all__ = ["NEAREST", "Corrupt", "Returns", "Sweep", "kept"]

NEAREST = 0.9  # m, the scanner sees nothing nearer


@dataclass(frozen=True)
class Sweep:
    """One turn of the scanner.

    Attributes:
        points: f32 [N, 3] m, the scanner at the origin, z up.
        intensity: f32 [N], 0..255.
        vehicle: bool [N], ground truth is a vehicle (False where there is no ground truth).
        beams: lasers of the scanner.

    Raises:
        UserError: lengths differ, or a coordinate or intensity is not finite. Compiled loops turn both into places in
            their tables.
    """

    points: np.ndarray
    intensity: np.ndarray
    vehicle: np.ndarray
    beams: int

    def __post_init__(self) -> None:
        count = len(self.points)
        if self.points.shape != (count, 3) or len(self.intensity) != count:
            raise UserError(
                f"points {list(self.points.shape)} with {len(self.intensity)} intensities",
                where="corruption",
            )
        if not (np.isfinite(self.points).all() and np.isfinite(self.intensity).all()):
            raise UserError(
                "a point or an intensity is not finite",
                where="corruption",
                cure="Points without return cannot be corrupted: cut them when reading",
            )

    def __len__(self) -> int:
        return len(self.points)

    @property
    def distance(self) -> np.ndarray:
        """Distance of each point from the scanner, f32 [N] m."""
        return np.sqrt(np.einsum("ij,ij->i", self.points, self.points))


@dataclass(frozen=True)
class Returns:
    """What the scanner reports under the corruption.

    Attributes:
        points: f32 [M, 3] m. intensity: f32 [M], 0..255.
        source: i64 [M], the clean point it was; -1 for a point that was not there.
        ignored: bool [M], it no longer shows what it was: its class becomes "ignore".
    """

    points: np.ndarray
    intensity: np.ndarray
    source: np.ndarray
    ignored: np.ndarray


Corrupt = Callable[[Sweep, np.random.Generator], Returns]


def kept(sweep: Sweep, stays: np.ndarray | None = None) -> Returns:
    """Return the points where ``stays`` (bool [N]; None = all), unchanged."""
    source = np.arange(len(sweep))
    if stays is not None:
        source = np.flatnonzero(stays)
    return Returns(
        points=sweep.points[source],
        intensity=sweep.intensity[source],
        source=source,
        ignored=np.zeros(len(source), bool),
    )

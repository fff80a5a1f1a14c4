"""Analytic solids: tapered boxes, (conical, elliptic) cylinders and ellipsoids, held as flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.materials import REFLECTANCE, Mat

__all__ = ["BOX", "CYLINDER", "ELLIPSOID", "Model", "Solids", "extent", "join", "place", "rotation"]

BOX, CYLINDER, ELLIPSOID = 0, 1, 2
Vector = Sequence[float]


class Solids(NamedTuple):
    """``n`` solids in one frame.

    Attributes:
        kind: i32 [n], BOX, CYLINDER or ELLIPSOID.
        centre: f64 [n, 3] m.
        axes: f64 [n, 3, 3], columns are the solid's own axes.
        half: f64 [n, 3] m, half sizes along those axes.
        taper: f64 [n, 2], the share by which x and y shrink from bottom to top (a cone has 1).
        material, cls, thing: i32 [n]; thing 0 belongs to no object.
        colour: f64 [n, 3] sRGB 0..1.
        reflectance: f64 [n].
    """

    kind: np.ndarray
    centre: np.ndarray
    axes: np.ndarray
    half: np.ndarray
    taper: np.ndarray
    material: np.ndarray
    cls: np.ndarray
    thing: np.ndarray
    colour: np.ndarray
    reflectance: np.ndarray


def rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rz(yaw) Ry(pitch) Rx(roll), radians; positive pitch lowers the nose."""
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1.0]])
    y = np.array([[cp, 0, sp], [0, 1.0, 0], [-sp, 0, cp]])
    x = np.array([[1.0, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return z @ y @ x


class Model:
    """Collects the solids of one object: x forward, y left, z up from the ground, metres."""

    def __init__(self, cls: Cls, reflectance_scale: float = 1.0) -> None:
        self.cls = cls
        self._scale = reflectance_scale
        self._rows: list[tuple] = []

    def _add(self, kind, centre, half, material, colour, axes, taper, cls) -> None:
        axes = np.eye(3) if axes is None else axes
        reflectance = REFLECTANCE[material] * (1.0 if material == Mat.RETRO else self._scale)
        cls = self.cls if cls is None else cls
        self._rows.append(
            (kind, centre, axes, half, taper, int(material), int(cls), colour, reflectance)
        )

    def box(
        self,
        centre: Vector,
        size: Vector,
        material: Mat,
        colour: Vector,
        axes: np.ndarray | None = None,
        taper: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """A box of full ``size``, its top face shrunk by ``taper``."""
        half = tuple(s / 2 for s in size)
        self._add(BOX, centre, half, material, colour, axes, taper, None)

    def cylinder(
        self,
        centre: Vector,
        radius: float,
        height: float,
        material: Mat,
        colour: Vector,
        axes: np.ndarray | None = None,
        taper: float = 0.0,
        cls: Cls | None = None,
    ) -> None:
        """A cylinder along its z axis; ``taper`` 1 makes a cone."""
        half = (radius, radius, height / 2)
        self._add(CYLINDER, centre, half, material, colour, axes, (taper, taper), cls)

    def ellipsoid(self, centre: Vector, radii: Vector, material: Mat, colour: Vector) -> None:
        """An ellipsoid of the given radii."""
        self._add(ELLIPSOID, centre, tuple(radii), material, colour, None, (0.0, 0.0), None)

    def solids(self, thing: int = 0) -> Solids:
        """The collected solids as arrays."""
        rows = self._rows
        column = [np.array([row[i] for row in rows]) for i in range(9)]
        n = len(rows)
        return Solids(
            kind=column[0].astype(np.int32),
            centre=column[1].astype(np.float64).reshape(n, 3),
            axes=column[2].astype(np.float64).reshape(n, 3, 3),
            half=column[3].astype(np.float64).reshape(n, 3),
            taper=column[4].astype(np.float64).reshape(n, 2),
            material=column[5].astype(np.int32),
            cls=column[6].astype(np.int32),
            thing=np.full(n, thing, np.int32),
            colour=column[7].astype(np.float64).reshape(n, 3),
            reflectance=column[8].astype(np.float64),
        )


def join(parts: Sequence[Solids]) -> Solids:
    """Concatenate."""
    return Solids(*(np.concatenate(columns) for columns in zip(*parts)))


def place(solids: Solids, turn: np.ndarray, position: Vector) -> Solids:
    """Solids carried by the rigid motion ``turn`` [3, 3], ``position`` [3]."""
    return solids._replace(
        centre=solids.centre @ turn.T + np.asarray(position), axes=turn @ solids.axes
    )


def extent(solids: Solids) -> tuple[np.ndarray, np.ndarray]:
    """Axis-aligned bounds of each solid: lower and upper, f64 [n, 3]."""
    spread = np.abs(solids.axes) * solids.half[:, None, :]
    reach = spread.sum(2)
    round_ = solids.kind == ELLIPSOID
    reach[round_] = np.sqrt((spread[round_] ** 2).sum(2))
    tube = solids.kind == CYLINDER
    reach[tube] = np.hypot(spread[tube][:, :, 0], spread[tube][:, :, 1]) + spread[tube][:, :, 2]
    return solids.centre - reach, solids.centre + reach

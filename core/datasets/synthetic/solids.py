"""Analytic solids: tapered boxes, (conical, elliptic) cylinders and ellipsoids, held as flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.materials import REFLECTANCE, Mat

__all__ = [
    "BOX",
    "CYLINDER",
    "ELLIPSOID",
    "Model",
    "Solids",
    "Vector",
    "extent",
    "join",
    "place",
    "rotation",
]

BOX, CYLINDER, ELLIPSOID = 0, 1, 2
Vector: TypeAlias = Sequence[float] | np.ndarray


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
    """Return Rz(yaw) Ry(pitch) Rx(roll), f64 [3, 3]; angles in rad, positive pitch lowers the nose."""
    z = np.eye(3)
    z[0, 0] = z[1, 1] = np.cos(yaw)
    z[1, 0] = np.sin(yaw)
    z[0, 1] = -np.sin(yaw)
    y = np.eye(3)
    y[0, 0] = y[2, 2] = np.cos(pitch)
    y[0, 2] = np.sin(pitch)
    y[2, 0] = -np.sin(pitch)
    x = np.eye(3)
    x[1, 1] = x[2, 2] = np.cos(roll)
    x[2, 1] = np.sin(roll)
    x[1, 2] = -np.sin(roll)
    return z @ y @ x


class _Row(NamedTuple):
    """One solid of a `Model`, in the order of the fields of `Solids` (without ``thing``)."""

    kind: int
    centre: Vector
    axes: np.ndarray
    half: Vector
    taper: tuple[float, float]
    material: int
    cls: int
    colour: Vector
    reflectance: float


class Model:
    """Collects the solids of one object: x forward, y left, z up from the ground, metres.

    Args:
        cls: of its solids, where a solid names none. reflectance_scale: brightness of its coat.
    """

    def __init__(self, cls: Cls, reflectance_scale: float = 1.0) -> None:
        self.cls = cls
        self._scale = reflectance_scale
        self._rows: list[_Row] = []

    def _add(
        self,
        kind: int,
        centre: Vector,
        half: Vector,
        material: Mat,
        colour: Vector,
        axes: np.ndarray | None = None,
        taper: tuple[float, float] = (0.0, 0.0),
        cls: Cls | None = None,
    ) -> None:
        if axes is None:
            axes = np.eye(3)
        if cls is None:
            cls = self.cls
        reflectance = REFLECTANCE[material]
        if material != Mat.RETRO:  # a reflector is not part of the coat
            reflectance *= self._scale
        row = _Row(kind, centre, axes, half, taper, int(material), int(cls), colour, reflectance)
        self._rows.append(row)

    def box(
        self,
        centre: Vector,
        size: Vector,
        material: Mat,
        colour: Vector,
        axes: np.ndarray | None = None,
        taper: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Add a box of full ``size`` (m), its top face shrunk by ``taper``."""
        half = tuple(s / 2 for s in size)
        self._add(BOX, centre, half, material, colour, axes, taper)

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
        """Add a cylinder along its z axis; ``taper`` 1 makes a cone."""
        half = (radius, radius, height / 2)
        self._add(CYLINDER, centre, half, material, colour, axes, (taper, taper), cls)

    def ellipsoid(self, centre: Vector, radii: Vector, material: Mat, colour: Vector) -> None:
        """Add an ellipsoid of the given ``radii`` (m)."""
        self._add(ELLIPSOID, centre, tuple(radii), material, colour)

    def solids(self, thing: int = 0) -> Solids:
        """Return the collected solids as arrays, all of them belonging to object number ``thing``."""
        rows = self._rows
        n = len(rows)
        return Solids(
            kind=np.array([row.kind for row in rows], np.int32),
            centre=np.array([row.centre for row in rows], np.float64).reshape(n, 3),
            axes=np.array([row.axes for row in rows], np.float64).reshape(n, 3, 3),
            half=np.array([row.half for row in rows], np.float64).reshape(n, 3),
            taper=np.array([row.taper for row in rows], np.float64).reshape(n, 2),
            material=np.array([row.material for row in rows], np.int32),
            cls=np.array([row.cls for row in rows], np.int32),
            thing=np.full(n, thing, np.int32),
            colour=np.array([row.colour for row in rows], np.float64).reshape(n, 3),
            reflectance=np.array([row.reflectance for row in rows], np.float64),
        )


def join(parts: Sequence[Solids]) -> Solids:
    """Concatenate sets of solids of one frame."""
    return Solids(*(np.concatenate(columns) for columns in zip(*parts)))


def place(solids: Solids, turn: np.ndarray, position: Vector) -> Solids:
    """Carry solids by the rigid motion ``turn`` [3, 3], ``position`` [3] m."""
    centre = solids.centre @ turn.T + np.asarray(position)
    return solids._replace(centre=centre, axes=turn @ solids.axes)


def extent(solids: Solids) -> tuple[np.ndarray, np.ndarray]:
    """Return axis-aligned bounds of each solid: lower and upper, f64 [n, 3] m."""
    spread = np.abs(solids.axes) * solids.half[:, None, :]
    reach = spread.sum(2)
    ball = solids.kind == ELLIPSOID
    reach[ball] = np.sqrt((spread[ball] ** 2).sum(2))
    tube = solids.kind == CYLINDER
    across = np.hypot(spread[tube][:, :, 0], spread[tube][:, :, 1])
    reach[tube] = across + spread[tube][:, :, 2]
    return solids.centre - reach, solids.centre + reach

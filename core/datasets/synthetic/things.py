"""An object with a box around it: what it is made of, where it is at any time, and what it is doing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.solids import Model, Solids, extent, place, rotation
from core.datasets.synthetic.town import Route

__all__ = ["Along", "Fixed", "Motion", "Straight", "Thing", "discs", "make_thing"]

_MARGIN = 0.05  # m, room for range noise between an object's surface and its box
_FOUR_WHEELS = (Cls.CAR, Cls.TRUCK, Cls.BUS, Cls.TRAILER, Cls.CONSTRUCTION)
_PEOPLE = (Cls.ADULT, Cls.CHILD, Cls.WORKER)


class Motion(Protocol):
    """Where an object is."""

    @property
    def speed(self) -> float:
        """Speed, m/s."""
        ...

    def at(self, time: float) -> tuple[float, float, float, float]:
        """Return (x, y, z, yaw), m and rad, ``time`` s after the scene's start."""
        ...


@dataclass(frozen=True)
class Fixed:
    """Stands at one place; coordinates in m, yaw in rad."""

    x: float
    y: float
    z: float
    yaw: float
    speed: float = 0.0

    def at(self, time: float) -> tuple[float, float, float, float]:
        """See `Motion`."""
        return self.x, self.y, self.z, self.yaw


@dataclass(frozen=True)
class Straight:
    """Moves straight ahead at ``speed`` m/s."""

    x: float
    y: float
    z: float
    yaw: float
    speed: float

    def at(self, time: float) -> tuple[float, float, float, float]:
        """See `Motion`."""
        way = self.speed * time
        x = self.x + way * math.cos(self.yaw)
        y = self.y + way * math.sin(self.yaw)
        return x, y, self.z, self.yaw


@dataclass(frozen=True)
class Along:
    """Follows a route from ``start`` m at ``speed`` m/s."""

    route: Route
    start: float
    speed: float

    def at(self, time: float) -> tuple[float, float, float, float]:
        """See `Motion`."""
        x, y, yaw = self.route.at(self.start + self.speed * time)
        return x, y, 0.0, yaw


@dataclass(frozen=True)
class Thing:
    """One object.

    Attributes:
        number: 1.. within the scene, also in ``solids.thing``. cls: its class.
        solids: its solids in its own frame. motion: where that frame is.
        box: f64 [3] m, centre of its box in its own frame. size: f64 [3] m, the box's length, width, height.
    """

    number: int
    cls: Cls
    solids: Solids
    motion: Motion
    box: np.ndarray
    size: np.ndarray

    @property
    def moving(self) -> bool:
        """Whether it moves through this scene."""
        return self.motion.speed != 0.0

    @property
    def attribute(self) -> str:
        """The nuScenes attribute's name, or "" where its category has none."""
        if self.cls in _FOUR_WHEELS:
            return "vehicle.moving" if self.moving else "vehicle.parked"
        if self.cls in _PEOPLE:
            return "pedestrian.moving" if self.moving else "pedestrian.standing"
        if self.cls in (Cls.BICYCLIST, Cls.MOTORCYCLIST):
            return "cycle.with_rider"
        if self.cls in (Cls.BICYCLE, Cls.MOTORCYCLE):
            return "cycle.without_rider"
        return ""

    def solids_at(self, time: float) -> Solids:
        """Return its solids in the world, ``time`` s after the scene's start."""
        x, y, z, yaw = self.motion.at(time)
        return place(self.solids, rotation(yaw), (x, y, z))

    def box_at(self, time: float) -> tuple[np.ndarray, float]:
        """Return the centre of its box in the world, f64 [3] m, and its yaw, rad."""
        x, y, z, yaw = self.motion.at(time)
        return rotation(yaw) @ self.box + np.array([x, y, z]), yaw


def make_thing(number: int, model: Model, motion: Motion) -> Thing:
    """Make a thing with a tight box around ``model``."""
    solids = model.solids(number)
    lower, upper = extent(solids)
    low = lower.min(0) - _MARGIN
    high = upper.max(0) + _MARGIN
    return Thing(number, model.cls, solids, motion, (low + high) / 2, high - low)


def discs(thing: Thing, times: np.ndarray) -> tuple[np.ndarray, float]:
    """Cover a thing, seen from above, with discs.

    Args:
        thing: the object. times: f64 [T] s after the scene's start.

    Returns:
        the discs' centres f64 [T, k, 2] m and their radius, m.
    """
    length = float(thing.size[0])
    width = float(thing.size[1])
    count = max(1, math.ceil(length / width))
    offsets = (np.arange(count) + 0.5) / count * length - length / 2 + thing.box[0]
    poses = np.array([thing.motion.at(float(t)) for t in times])
    heading = np.stack([np.cos(poses[:, 3]), np.sin(poses[:, 3])], 1)
    centres = poses[:, None, :2] + offsets[None, :, None] * heading[:, None, :]
    radius = 0.5 * math.hypot(width, length / count)
    return centres, radius

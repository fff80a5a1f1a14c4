"""One scene of the synthetic world: town, scenery and traffic, frozen at any instant for the sensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from core.datasets.synthetic.raycast import Geometry, geometry
from core.datasets.synthetic.scenery import Scenery
from core.datasets.synthetic.solids import Solids, Vector, join, place, rotation
from core.datasets.synthetic.things import Thing
from core.datasets.synthetic.town import make_town
from core.datasets.synthetic.traffic import ego_motion, traffic
from core.datasets.synthetic.vehicles import ego_body

__all__ = ["Scene", "Snapshot", "rigid"]


def rigid(turn: np.ndarray, position: Vector) -> np.ndarray:
    """Return the homogeneous f64 [4, 4] of a rotation [3, 3] and a translation [3] (m)."""
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = position
    return matrix


@dataclass(frozen=True)
class Snapshot:
    """The world at one instant.

    Attributes:
        geometry: for ray casting. solids: looks and labels of its solids, same numbers.
        visible: solids from this number on are the ego car's own body, which only its laser sees.
        ego: f64 [4, 4], ego frame -> world. sun: f64 [3], unit vector towards the sun.
    """

    geometry: Geometry
    solids: Solids
    visible: int
    ego: np.ndarray
    sun: np.ndarray


class Scene:
    """A scene, the same for the same arguments.

    Args:
        seed: of the world. index: of the scene. duration: s, from its first to its last recorded instant.

    Attributes:
        town, things, sun: street plan, all objects, direction to the sun.
    """

    def __init__(self, seed: int, index: int, duration: float) -> None:
        town_rng, ego_rng, scenery_rng, traffic_rng = (
            np.random.default_rng([seed, index, k]) for k in range(4)
        )
        self.town = make_town(town_rng)
        self._ego = ego_motion(self.town, duration, ego_rng)
        passed = np.arange(-5.0, self._ego.speed * duration + 22.0, 2.0)
        way = np.array([self.town.route.at(self._ego.start + s)[:2] for s in passed])
        scenery = Scenery(self.town, way, scenery_rng)
        self._moving = traffic(self.town, self._ego, duration, scenery.things, traffic_rng)
        self.things: list[Thing] = scenery.things + self._moving
        parked = [thing.solids_at(0.0) for thing in scenery.things]
        self._static = join(scenery.solids + parked)
        height = ego_rng.uniform(0.5, 1.1)
        azimuth = ego_rng.uniform(0, 2 * math.pi)
        self.sun = rotation(azimuth, -height) @ np.array([1.0, 0.0, 0.0])

    def ego_pose(self, time: float) -> np.ndarray:
        """Return ego frame (below the rear axle, x forward, z up) -> world, f64 [4, 4]; the body sways a little."""
        x, y, _, yaw = self._ego.at(time)
        pitch = 0.004 * math.sin(2.1 * time)
        roll = 0.005 * math.sin(1.3 * time + 1.0)
        return rigid(rotation(yaw, pitch, roll), (x, y, 0.0))

    def snapshot(self, time: float, body: bool = True) -> Snapshot:
        """Freeze the world ``time`` s after the scene's start.

        Args:
            time: s. body: the ego car's own body is in its laser's way.
        """
        ego = self.ego_pose(time)
        parts = [self._static] + [thing.solids_at(time) for thing in self._moving]
        visible = sum(len(part.kind) for part in parts)
        if body:
            parts.append(place(ego_body().solids(), ego[:3, :3], ego[:3, 3]))
        solids = join(parts)
        return Snapshot(geometry(solids, self.town.ground), solids, visible, ego, self.sun)

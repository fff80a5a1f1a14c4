"""Dresses the town: houses, trees and furniture, and the parked objects; rare kinds go near the ego car's way."""

from __future__ import annotations

import math

import numpy as np

from core.datasets.synthetic import street_furniture as furniture
from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.people import pedestrian
from core.datasets.synthetic.raycast import KERB_HEIGHT
from core.datasets.synthetic.solids import Model, Solids, place, rotation
from core.datasets.synthetic.things import Fixed, Thing, make_thing
from core.datasets.synthetic.town import FRONT, Kerb, Town
from core.datasets.synthetic.vehicles import BUILDERS, bicycle, motorcycle

__all__ = ["Scenery"]

_NEAR, _FAR = (
    24.0,
    75.0,
)  # m from the ego car's way: where rare objects must stand, where parked cars end
_REACH = 95.0  # m, nothing is built farther away


class Scenery:
    """All that stands still in one scene.

    Args:
        town: street plan. way: f64 [n, 2] m, places the ego car passes. rng: decides everything.

    Attributes:
        solids: world-frame solids that belong to no object. things: parked and standing objects.
    """

    def __init__(self, town: Town, way: np.ndarray, rng: np.random.Generator) -> None:
        self.solids: list[Solids] = []
        self.things: list[Thing] = []
        self._town, self._way, self._rng = town, way, rng
        self._parked: dict[int, list[tuple[float, float]]] = {k: [] for k in range(len(town.kerbs))}
        self._strip: dict[int, list[tuple[float, float]]] = {k: [] for k in range(len(town.kerbs))}
        self._spots = self._candidates()
        self._place_rare()
        distance = [self._distance(*kerb.at(kerb.length / 2, 0.0)[:2]) for kerb in town.kerbs]
        for k, kerb in enumerate(town.kerbs):
            if distance[k] < _FAR:
                self._park_along(k, kerb)
                self._people_along(kerb)
            if distance[k] < _REACH:
                self._dress(k, kerb)
        for block in town.blocks:
            self._build(*block)

    # -- bookkeeping ------------------------------------------------------------------------------------------------

    def _distance(self, x: float, y: float) -> float:
        return float(np.hypot(self._way[:, 0] - x, self._way[:, 1] - y).min())

    def _candidates(self) -> list[tuple[int, float, float]]:
        """(kerb, metres along it, distance to the way) of every spot near the way."""
        spots = []
        for k, kerb in enumerate(self._town.kerbs):
            for along in np.arange(1.0, kerb.length - 1.0, 1.0):
                distance = self._distance(*kerb.at(float(along), -1.3)[:2])
                if distance < _NEAR:
                    spots.append((k, float(along), distance))
        return spots

    def _reserve(
        self, taken: dict[int, list[tuple[float, float]]], k: int, low: float, high: float
    ) -> bool:
        if (
            low < 0.0
            or high > self._town.kerbs[k].length
            or any(low < b and high > a for a, b in taken[k])
        ):
            return False
        taken[k].append((low, high))
        return True

    def _find(
        self, taken: dict[int, list[tuple[float, float]]], length: float, ideal: float
    ) -> tuple[Kerb, float] | None:
        """A free stretch of ``length`` m about ``ideal`` m from the way: the kerb and the stretch's middle."""
        distance = np.array([spot[2] for spot in self._spots])
        for pick in (np.abs(distance - ideal) + self._rng.uniform(0, 9.0, len(distance))).argsort():
            k, along, _ = self._spots[pick]
            if self._reserve(taken, k, along - length / 2, along + length / 2):
                return self._town.kerbs[k], along
        return None

    def _stand(
        self, model: Model, kerb: Kerb, along: float, offset: float, turn: float = 0.0
    ) -> None:
        x, y, z = kerb.at(along, offset, KERB_HEIGHT if offset > 0 else 0.0)
        self.things.append(make_thing(len(self.things) + 1, model, Fixed(x, y, z, kerb.yaw + turn)))

    def _fix(
        self, model: Model, kerb: Kerb, along: float, offset: float, turn: float = 0.0
    ) -> None:
        self.solids.append(
            place(model.solids(), rotation(kerb.yaw + turn), kerb.at(along, offset, KERB_HEIGHT))
        )

    # -- objects ----------------------------------------------------------------------------------------------------

    def _place_rare(self) -> None:
        """One of everything that towns have few of, within sight of the way."""
        plan = [
            (self._site, 14.5, 7.0, None),
            (self._roadworks, 10.5, 8.0, None),
            (self._two_wheels, 3.6, 7.0, None),
        ]
        plan += [(self._vehicle, 12.2, 14.0, Cls.BUS), (self._vehicle, 10.8, 14.0, Cls.TRUCK)]
        plan += [(self._vehicle, 10.4, 12.0, Cls.TRAILER), (self._two_wheels, 3.6, 9.0, None)]
        plan += [(self._vehicle, 9.0, 10.0, Cls.CONSTRUCTION), (self._cones, 6.5, 8.0, None)]
        plan += [(self._vehicle, 10.4, 14.0, Cls.TRAILER), (self._roadworks, 10.5, 12.0, None)]
        for put, length, ideal, cls in plan:
            found = self._find(self._parked, length, ideal)
            if found is not None:
                put(*found, cls)
        for _ in range(4):
            found = self._find(self._strip, 4.4, 7.0)
            if found is not None:
                for shift in (-1.1, 1.1):
                    self._stand(bicycle(self._rng, rider=False), found[0], found[1] + shift, 0.7)
        for k in range(14):
            spot = self._spots[self._rng.integers(len(self._spots))]
            self._person(self._town.kerbs[spot[0]], spot[1], Cls.CHILD if k % 4 == 3 else Cls.ADULT)

    def _vehicle(self, kerb: Kerb, along: float, cls: Cls | None) -> None:
        model = BUILDERS[cls or Cls.CAR](self._rng)
        thing = make_thing(0, model, Fixed(0, 0, 0, 0))
        self._stand(model, kerb, along - float(thing.box[0]), -0.12 - float(thing.size[1]) / 2)

    def _two_wheels(self, kerb: Kerb, along: float, _: Cls | None) -> None:
        for shift in (-1.1, 0.0, 1.1):
            self._stand(
                motorcycle(self._rng, rider=False), kerb, along + shift, -1.15, turn=math.pi / 2
            )

    def _site(self, kerb: Kerb, along: float, _: Cls | None) -> None:
        """Road works: a machine behind barriers and cones, with workers."""
        rng = self._rng
        self._stand(
            BUILDERS[Cls.CONSTRUCTION](rng),
            kerb,
            along + 1.0,
            -1.5,
            turn=math.pi * float(rng.integers(2)),
        )
        for end in (-6.6, 6.6):
            self._stand(furniture.barrier(rng), kerb, along + end, -1.2, turn=math.pi / 2)
        for shift in (-6.6, -4.4, 5.0, 6.6):
            self._stand(furniture.cone(rng), kerb, along + shift, -3.0)
        self._stand(
            pedestrian(rng, Cls.WORKER), kerb, along - 4.3, -0.8, turn=float(rng.uniform(-3, 3))
        )
        self._stand(
            pedestrian(rng, Cls.WORKER), kerb, along - 3.2, 1.0, turn=float(rng.uniform(-3, 3))
        )
        self._stand(furniture.debris(rng), kerb, along - 5.4, -1.0)

    def _roadworks(self, kerb: Kerb, along: float, _: Cls | None) -> None:
        for k in range(4):
            self._stand(furniture.barrier(self._rng), kerb, along - 3.3 + 2.15 * k, -1.9)
        for k in range(5):
            self._stand(furniture.cone(self._rng), kerb, along - 4.8 + 2.3 * k, -0.9)

    def _cones(self, kerb: Kerb, along: float, _: Cls | None) -> None:
        for k in range(6):
            self._stand(furniture.cone(self._rng), kerb, along - 2.7 + 1.1 * k, -2.4)

    def _park_along(self, k: int, kerb: Kerb) -> None:
        """Fill the kerb's free parking places."""
        along, rng = 0.5, self._rng
        while along < kerb.length - 5.5:
            draw = rng.random()
            if draw < 0.5 and self._reserve(self._parked, k, along, along + 5.4):
                self._vehicle(kerb, along + 2.7, Cls.CAR)
            elif draw < 0.55 and self._reserve(self._parked, k, along, along + 10.8):
                self._vehicle(kerb, along + 5.4, (Cls.TRUCK, Cls.TRAILER)[rng.integers(2)])
                along += 5.4
            elif draw < 0.6 and self._reserve(self._parked, k, along, along + 3.6):
                self._two_wheels(kerb, along + 1.8, None)
            elif draw < 0.66 and self._reserve(self._strip, k, along, along + 2.2):
                self._stand(bicycle(rng, rider=False), kerb, along + 1.1, 0.7)
            along += 5.6

    def _people_along(self, kerb: Kerb) -> None:
        for _ in range(self._rng.integers(0, 3)):
            cls = Cls.ADULT if self._rng.random() < 0.8 else Cls.CHILD
            self._person(kerb, float(self._rng.uniform(0, kerb.length)), cls)

    def _person(self, kerb: Kerb, along: float, cls: Cls) -> None:
        """Someone standing on the sidewalk, unless someone else stands there."""
        offset, turn = (
            float(self._rng.uniform(1.7, 3.4)),
            float(self._rng.uniform(-math.pi, math.pi)),
        )
        x, y, _ = kerb.at(along, offset)
        if all(
            np.hypot(x - other.motion.at(0.0)[0], y - other.motion.at(0.0)[1]) > 1.4
            for other in self.things
        ):
            self._stand(pedestrian(self._rng, cls), kerb, along, offset, turn)

    # -- background -------------------------------------------------------------------------------------------------

    def _dress(self, k: int, kerb: Kerb) -> None:
        """Trees, lamps and signs in the planted strip; hedges, walls and fences behind the sidewalk."""
        rng, along = self._rng, float(self._rng.uniform(0.0, 4.0))
        self._fix(furniture.sign(rng), kerb, kerb.length - 0.5, 0.5)
        while along < kerb.length - 2.0:
            draw = rng.random()
            if self._reserve(self._strip, k, along - 0.8, along + 0.8):
                if draw < 0.4:
                    self._fix(furniture.tree(rng), kerb, along, 0.7)
                elif draw < 0.55:
                    self._fix(furniture.lamp(rng), kerb, along, 0.5)
                elif draw < 0.7:
                    self._fix(furniture.sign(rng), kerb, along, 0.6)
                elif draw < 0.85:
                    self._fix(furniture.bush(rng), kerb, along, 0.7)
                else:
                    self._fix(furniture.bollard(rng), kerb, along, 0.35)
            along += float(rng.uniform(3.5, 7.0))
        along = 0.0
        while along < kerb.length - 4.0:
            length = float(rng.uniform(4.0, 9.0))
            if rng.random() < 0.6:
                self._fix(furniture.hurdle(rng, length - 0.8), kerb, along + length / 2, 4.25)
            along += length

    def _build(self, x0: float, y0: float, x1: float, y1: float, park: bool) -> None:
        """Rows of houses round a block, or trees in a park."""
        rng = self._rng
        x0, y0, x1, y1 = x0 + FRONT, y0 + FRONT, x1 - FRONT, y1 - FRONT
        if park:
            for _ in range(14):
                x, y = rng.uniform(x0, x1), rng.uniform(y0, y1)
                model = furniture.tree(rng) if rng.random() < 0.7 else furniture.bush(rng)
                if self._distance(x, y) < _REACH:
                    self.solids.append(
                        place(model.solids(), rotation(rng.uniform(0, 6.28)), (x, y, KERB_HEIGHT))
                    )
            return
        depth = 10.0
        for y in (y0 + depth / 2, y1 - depth / 2):
            self._row(x0, x1, depth, lambda along, y=y: (along, y, 0.0))
        for x in (x0 + depth / 2, x1 - depth / 2):
            self._row(
                y0 + depth + 1.5,
                y1 - depth - 1.5,
                depth,
                lambda along, x=x: (x, along, math.pi / 2),
            )

    def _row(self, low: float, high: float, depth: float, where) -> None:
        along, rng = low, self._rng
        while high - along > 6.0:
            width = min(float(rng.uniform(8.0, 15.0)), high - along)
            x, y, yaw = where(along + width / 2)
            model = furniture.house(rng, width, depth)
            if self._distance(x, y) < _REACH + 20.0:
                self.solids.append(place(model.solids(), rotation(yaw), (x, y, KERB_HEIGHT)))
            along += width + (float(rng.uniform(1.5, 5.0)) if rng.random() < 0.35 else 0.0)

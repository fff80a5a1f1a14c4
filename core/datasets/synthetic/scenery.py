"""Dresses the town: houses, trees and furniture, and the parked objects; rare kinds go near the ego car's way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

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

# m from the ego car's way
_NEAR = 24.0  # where rare objects must stand
_FAR = 75.0  # where parked cars end
_REACH = 95.0  # nothing is built farther away
_DEPTH = 10.0  # m, of houses


class _Stretches:
    """Which stretches of the kerbs are taken."""

    def __init__(self, kerbs: Sequence[Kerb]) -> None:
        self._lengths = [kerb.length for kerb in kerbs]
        self._taken: list[list[tuple[float, float]]] = [[] for _ in kerbs]

    def reserve(self, k: int, low: float, high: float) -> bool:
        """Take ``low`` to ``high`` m of kerb ``k``; False where it ends before or something stands there."""
        if low < 0.0 or high > self._lengths[k]:
            return False
        for begin, end in self._taken[k]:
            if low < end and high > begin:
                return False
        self._taken[k].append((low, high))
        return True


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
        self._town = town
        self._way = way
        self._rng = rng
        self._parked = _Stretches(town.kerbs)
        self._strip = _Stretches(town.kerbs)
        self._spots = self._candidates()
        self._place_rare()
        for k, kerb in enumerate(town.kerbs):
            x, y, _ = kerb.at(kerb.length / 2, 0.0)
            distance = self._distance(x, y)
            if distance < _FAR:
                self._park_along(k, kerb)
                self._people_along(kerb)
            if distance < _REACH:
                self._plant(k, kerb)
                self._fence(kerb)
        for block in town.blocks:
            self._build(*block)

    # -- bookkeeping ------------------------------------------------------------------------------------------------

    def _distance(self, x: float, y: float) -> float:
        """Distance to the ego car's way, m."""
        return float(np.hypot(self._way[:, 0] - x, self._way[:, 1] - y).min())

    def _candidates(self) -> list[tuple[int, float, float]]:
        """(kerb, metres along it, distance to the way) of every spot near the way."""
        spots = []
        for k, kerb in enumerate(self._town.kerbs):
            for along in np.arange(1.0, kerb.length - 1.0, 1.0).tolist():
                x, y, _ = kerb.at(along, -1.3)
                distance = self._distance(x, y)
                if distance < _NEAR:
                    spots.append((k, along, distance))
        return spots

    def _find(self, free: _Stretches, length: float, ideal: float) -> tuple[Kerb, float] | None:
        """Take a stretch of ``length`` m some ``ideal`` m from the way: the kerb and the stretch's middle."""
        distance = np.array([spot[2] for spot in self._spots])
        penalty = np.abs(distance - ideal) + self._rng.uniform(0, 9.0, len(distance))
        for pick in penalty.argsort():
            k, along, _ = self._spots[pick]
            if free.reserve(k, along - length / 2, along + length / 2):
                return self._town.kerbs[k], along
        return None

    def _stand(
        self, model: Model, kerb: Kerb, along: float, offset: float, turn: float = 0.0
    ) -> None:
        """Add an object."""
        x, y, z = kerb.at(along, offset, KERB_HEIGHT if offset > 0 else 0.0)
        number = len(self.things) + 1
        self.things.append(make_thing(number, model, Fixed(x, y, z, kerb.yaw + turn)))

    def _fix(self, model: Model, kerb: Kerb, along: float, offset: float) -> None:
        """Add solids that belong to no object."""
        self._put(model, kerb.at(along, offset, KERB_HEIGHT), kerb.yaw)

    def _put(self, model: Model, position: tuple[float, float, float], yaw: float) -> None:
        self.solids.append(place(model.solids(), rotation(yaw), position))

    # -- objects ----------------------------------------------------------------------------------------------------

    def _place_rare(self) -> None:
        """Place one of everything that towns have few of, within sight of the way."""
        bus = partial(self._vehicle, cls=Cls.BUS)
        truck = partial(self._vehicle, cls=Cls.TRUCK)
        trailer = partial(self._vehicle, cls=Cls.TRAILER)
        machine = partial(self._vehicle, cls=Cls.CONSTRUCTION)
        plan: list[tuple[Callable[[Kerb, float], None], float, float]] = [
            # what, m it takes along the kerb, m from the way
            (self._site, 14.5, 7.0),
            (self._roadworks, 10.5, 8.0),
            (self._two_wheels, 3.6, 7.0),
            (bus, 12.2, 14.0),
            (truck, 10.8, 14.0),
            (trailer, 10.4, 12.0),
            (self._two_wheels, 3.6, 9.0),
            (machine, 9.0, 10.0),
            (self._cones, 6.5, 8.0),
            (trailer, 10.4, 14.0),
            (self._roadworks, 10.5, 12.0),
        ]
        for put, length, ideal in plan:
            found = self._find(self._parked, length, ideal)
            if found is not None:
                put(*found)
        for _ in range(4):
            found = self._find(self._strip, 4.4, 7.0)
            if found is not None:
                self._bicycles(*found)
        for number in range(14):
            k, along, _ = self._spots[self._rng.integers(len(self._spots))]
            cls = Cls.CHILD if number % 4 == 3 else Cls.ADULT
            self._person(self._town.kerbs[k], along, cls)

    def _vehicle(self, kerb: Kerb, along: float, cls: Cls) -> None:
        """Park a vehicle, its box at the kerb and its middle at ``along``."""
        model = BUILDERS[cls](self._rng)
        thing = make_thing(0, model, Fixed(0, 0, 0, 0))
        middle = along - float(thing.box[0])
        offset = -0.12 - float(thing.size[1]) / 2
        self._stand(model, kerb, middle, offset)

    def _two_wheels(self, kerb: Kerb, along: float) -> None:
        """Park three motorcycles across the parking lane."""
        for shift in (-1.1, 0.0, 1.1):
            model = motorcycle(self._rng, rider=False)
            self._stand(model, kerb, along + shift, -1.15, turn=math.pi / 2)

    def _bicycles(self, kerb: Kerb, along: float) -> None:
        for shift in (-1.1, 1.1):
            self._stand(bicycle(self._rng, rider=False), kerb, along + shift, 0.7)

    def _site(self, kerb: Kerb, along: float) -> None:
        """Set up road works: a machine behind barriers and cones, with workers."""
        rng = self._rng
        machine = BUILDERS[Cls.CONSTRUCTION](rng)
        turn = math.pi * float(rng.integers(2))
        self._stand(machine, kerb, along + 1.0, -1.5, turn)
        for end in (-6.6, 6.6):
            self._stand(furniture.barrier(rng), kerb, along + end, -1.2, turn=math.pi / 2)
        for shift in (-6.6, -4.4, 5.0, 6.6):
            self._stand(furniture.cone(rng), kerb, along + shift, -3.0)
        for shift, offset in ((-4.3, -0.8), (-3.2, 1.0)):
            worker = pedestrian(rng, Cls.WORKER)
            turn = float(rng.uniform(-3, 3))
            self._stand(worker, kerb, along + shift, offset, turn)
        self._stand(furniture.debris(rng), kerb, along - 5.4, -1.0)

    def _roadworks(self, kerb: Kerb, along: float) -> None:
        """Set up a row of barriers behind a row of cones."""
        for k in range(4):
            self._stand(furniture.barrier(self._rng), kerb, along - 3.3 + 2.15 * k, -1.9)
        for k in range(5):
            self._stand(furniture.cone(self._rng), kerb, along - 4.8 + 2.3 * k, -0.9)

    def _cones(self, kerb: Kerb, along: float) -> None:
        for k in range(6):
            self._stand(furniture.cone(self._rng), kerb, along - 2.7 + 1.1 * k, -2.4)

    def _park_along(self, k: int, kerb: Kerb) -> None:
        """Fill the kerb's free parking places."""
        rng = self._rng
        along = 0.5
        while along < kerb.length - 5.5:
            draw = rng.random()
            if draw < 0.5 and self._parked.reserve(k, along, along + 5.4):
                self._vehicle(kerb, along + 2.7, Cls.CAR)
            elif draw < 0.55 and self._parked.reserve(k, along, along + 10.8):
                cls = (Cls.TRUCK, Cls.TRAILER)[rng.integers(2)]
                self._vehicle(kerb, along + 5.4, cls)
                along += 5.4
            elif draw < 0.6 and self._parked.reserve(k, along, along + 3.6):
                self._two_wheels(kerb, along + 1.8)
            elif draw < 0.66 and self._strip.reserve(k, along, along + 2.2):
                self._stand(bicycle(rng, rider=False), kerb, along + 1.1, 0.7)
            along += 5.6

    def _people_along(self, kerb: Kerb) -> None:
        for _ in range(self._rng.integers(0, 3)):
            cls = Cls.ADULT if self._rng.random() < 0.8 else Cls.CHILD
            self._person(kerb, float(self._rng.uniform(0, kerb.length)), cls)

    def _person(self, kerb: Kerb, along: float, cls: Cls) -> None:
        """Let someone stand on the sidewalk, unless someone else stands there."""
        offset = float(self._rng.uniform(1.7, 3.4))
        turn = float(self._rng.uniform(-math.pi, math.pi))
        x, y, _ = kerb.at(along, offset)
        for other in self.things:
            other_x, other_y, _, _ = other.motion.at(0.0)
            if np.hypot(x - other_x, y - other_y) <= 1.4:
                return
        self._stand(pedestrian(self._rng, cls), kerb, along, offset, turn)

    # -- background -------------------------------------------------------------------------------------------------

    def _plant(self, k: int, kerb: Kerb) -> None:
        """Fill the planted strip with trees, lamps and signs."""
        rng = self._rng
        along = float(rng.uniform(0.0, 4.0))
        self._fix(furniture.sign(rng), kerb, kerb.length - 0.5, 0.5)
        while along < kerb.length - 2.0:
            draw = rng.random()
            if self._strip.reserve(k, along - 0.8, along + 0.8):
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

    def _fence(self, kerb: Kerb) -> None:
        """Put hedges, walls and fences behind the sidewalk."""
        rng = self._rng
        along = 0.0
        while along < kerb.length - 4.0:
            length = float(rng.uniform(4.0, 9.0))
            if rng.random() < 0.6:
                hurdle = furniture.hurdle(rng, length - 0.8)
                self._fix(hurdle, kerb, along + length / 2, 4.25)
            along += length

    def _build(self, x0: float, y0: float, x1: float, y1: float, park: bool) -> None:
        """Fill a block with rows of houses round it, or with trees where it is a park."""
        x0 += FRONT
        y0 += FRONT
        x1 -= FRONT
        y1 -= FRONT
        if park:
            self._trees(x0, y0, x1, y1)
            return
        for y in (y0 + _DEPTH / 2, y1 - _DEPTH / 2):
            self._row(x0, x1, y, north=False)
        inset = _DEPTH + 1.5
        for x in (x0 + _DEPTH / 2, x1 - _DEPTH / 2):
            self._row(y0 + inset, y1 - inset, x, north=True)

    def _trees(self, x0: float, y0: float, x1: float, y1: float) -> None:
        rng = self._rng
        for _ in range(14):
            x = rng.uniform(x0, x1)
            y = rng.uniform(y0, y1)
            if rng.random() < 0.7:
                model = furniture.tree(rng)
            else:
                model = furniture.bush(rng)
            if self._distance(x, y) < _REACH:
                self._put(model, (x, y, KERB_HEIGHT), rng.uniform(0, 6.28))

    def _row(self, low: float, high: float, line: float, north: bool) -> None:
        """Build houses from ``low`` to ``high`` m along x at y = ``line``, or along y at x = ``line``."""
        rng = self._rng
        along = low
        while high - along > 6.0:
            width = min(float(rng.uniform(8.0, 15.0)), high - along)
            middle = along + width / 2
            x, y, yaw = (line, middle, math.pi / 2) if north else (middle, line, 0.0)
            model = furniture.house(rng, width, _DEPTH)
            if self._distance(x, y) < _REACH + 20.0:
                self._put(model, (x, y, KERB_HEIGHT), yaw)
            gap = 0.0
            if rng.random() < 0.35:
                gap = float(rng.uniform(1.5, 5.0))
            along += width + gap

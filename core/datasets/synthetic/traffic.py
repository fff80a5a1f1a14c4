"""What moves: the ego car, vehicles before and behind it, traffic in the other lanes, people on the sidewalks."""

from __future__ import annotations

import math

import numpy as np

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.people import pedestrian
from core.datasets.synthetic.raycast import KERB_HEIGHT
from core.datasets.synthetic.solids import Model
from core.datasets.synthetic.things import Along, Motion, Straight, Thing, discs, make_thing
from core.datasets.synthetic.town import LANE, Town
from core.datasets.synthetic.vehicles import BUILDERS, bicycle, ego_body, motorcycle

__all__ = ["ego_motion", "traffic"]

_SPEED = {  # m/s, from and to
    Cls.CAR: (5.0, 9.0),
    Cls.TRUCK: (4.5, 7.0),
    Cls.BUS: (4.5, 7.0),
    Cls.MOTORCYCLIST: (5.0, 8.5),
    Cls.BICYCLIST: (2.5, 4.5),
}
_PLAN = (
    Cls.BICYCLIST,
    Cls.MOTORCYCLIST,
    Cls.BUS,
    Cls.CAR,
    Cls.BICYCLIST,
    Cls.TRUCK,
    Cls.MOTORCYCLIST,
    Cls.CAR,
    Cls.BICYCLIST,
    Cls.CAR,
    Cls.MOTORCYCLIST,
    Cls.CAR,
    Cls.CAR,
)
_IN_LINE = (
    Cls.CAR,
    Cls.TRUCK,
    Cls.BUS,
    Cls.MOTORCYCLIST,
)  # what drives before and behind the ego car
_WALKERS = 14
_TRIES = 25  # per vehicle of the plan


def ego_motion(town: Town, duration: float, rng: np.random.Generator) -> Along:
    """Let the ego car drive its loop and pass a turn within ``duration`` s."""
    speed = float(rng.uniform(5.5, 7.0))
    turn = town.route.turns[int(rng.integers(len(town.route.turns)))]
    way = speed * duration
    start = turn - min(way * float(rng.uniform(0.35, 0.75)), 22.0)
    return Along(town.route, start % town.route.length, speed)


def _model(cls: Cls, rng: np.random.Generator) -> Model:
    if cls == Cls.BICYCLIST:
        return bicycle(rng, rider=True)
    if cls == Cls.MOTORCYCLIST:
        return motorcycle(rng, rider=True)
    return BUILDERS[cls](rng)


class _Crowd:
    """Objects that never run into each other, into the ego car or into what stands.

    Args:
        ego: the ego car's motion. duration: s. parked: what stands.

    Attributes:
        things: the objects that were admitted, numbered on from ``parked``.
    """

    def __init__(self, ego: Along, duration: float, parked: list[Thing]) -> None:
        self.things: list[Thing] = []
        self._first = len(parked) + 1
        self._times = np.arange(-0.1, duration + 0.35, 0.2)
        self._covered = [discs(make_thing(0, ego_body(), ego), self._times)]
        standing = [discs(thing, self._times[:1]) for thing in parked]
        self._spots = np.concatenate([centres[0] for centres, _ in standing])
        self._rooms = np.concatenate(
            [np.full(centres.shape[1], radius) for centres, radius in standing]
        )

    def admit(self, model: Model, motion: Motion) -> bool:
        """Add an object, unless it would run into another."""
        thing = make_thing(self._first + len(self.things), model, motion)
        centres, radius = discs(thing, self._times)
        gaps = np.linalg.norm(centres[:, :, None, :] - self._spots, axis=-1)
        if (gaps < radius + self._rooms + 0.1).any():
            return False
        for others, other_radius in self._covered:
            gaps = np.linalg.norm(centres[:, :, None, :] - others[:, None, :, :], axis=-1)
            if gaps.min() < radius + other_radius + 0.3:
                return False
        self._covered.append((centres, radius))
        self.things.append(thing)
        return True


def traffic(
    town: Town, ego: Along, duration: float, parked: list[Thing], rng: np.random.Generator
) -> list[Thing]:
    """Draw everything that moves except the ego car; nothing ever runs into anything.

    Args:
        town: street plan. ego: the ego car's motion. duration: s. parked: what stands. rng: decides all.

    Returns:
        things numbered on from ``parked``.
    """
    crowd = _Crowd(ego, duration, parked)
    ahead, behind = (Cls(int(c)) for c in rng.choice(_IN_LINE, 2, replace=False))
    model = _model(ahead, rng)
    crowd.admit(model, Along(town.route, ego.start + rng.uniform(15.0, 20.0), ego.speed))
    model = _model(behind, rng)
    crowd.admit(model, Along(town.route, ego.start - rng.uniform(13.0, 18.0), ego.speed))
    for cls in _PLAN:
        for _ in range(_TRIES):
            model = _model(cls, rng)
            if crowd.admit(model, _lane(town, ego, duration, cls, rng)):
                break
    for k in range(_WALKERS):
        model = pedestrian(rng, Cls.CHILD if k % 4 == 3 else Cls.ADULT, walking=True)
        crowd.admit(model, _sidewalk(town, ego, duration, rng))
    return crowd.things


def _lane(town: Town, ego: Along, duration: float, cls: Cls, rng: np.random.Generator) -> Straight:
    """Drive straight down some lane, passing near the ego car half-way through the scene."""
    x, y, _, _ = ego.at(duration / 2)
    speed = float(rng.uniform(*_SPEED[cls]))
    sign = float(rng.choice([-1.0, 1.0]))
    to_lane = LANE * sign
    if cls == Cls.BICYCLIST:  # nearer to the kerb
        to_lane = (LANE + 0.9) * sign
    north = rng.random() < 0.5
    if north:
        lines, across, along = town.xs, x, y
    else:
        lines, across, along = town.ys, y, x
    line = lines[np.abs(lines - across).argsort()[0]]
    start = along + float(rng.uniform(-28.0, 28.0)) - sign * speed * duration / 2
    if north:
        return Straight(float(line + to_lane), start, 0.0, sign * math.pi / 2, speed)
    return Straight(start, float(line - to_lane), 0.0, 0.0 if sign > 0 else math.pi, speed)


def _sidewalk(town: Town, ego: Along, duration: float, rng: np.random.Generator) -> Straight:
    """Walk along a sidewalk near the ego car."""
    x, y, _, _ = ego.at(duration / 2)
    near = []
    for kerb in town.kerbs:
        middle = kerb.start + kerb.forward * kerb.length / 2
        if np.hypot(*(middle - (x, y))) < 45.0:
            near.append(kerb)
    kerb = near[int(rng.integers(len(near)))]
    back = bool(rng.random() < 0.5)
    along = float(rng.uniform(0, kerb.length))
    offset = float(rng.uniform(1.7, 3.4))
    speed = float(rng.uniform(0.9, 1.6))
    return Straight(*kerb.at(along, offset, KERB_HEIGHT), kerb.yaw + math.pi * back, speed)

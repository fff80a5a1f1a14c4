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

_SPEED = {
    Cls.CAR: (5.0, 9.0),
    Cls.TRUCK: (4.5, 7.0),
    Cls.BUS: (4.5, 7.0),
    Cls.MOTORCYCLIST: (5.0, 8.5),
}
_SPEED[Cls.BICYCLIST] = (2.5, 4.5)
_PLAN = (
    Cls.BICYCLIST,
    Cls.MOTORCYCLIST,
    Cls.BUS,
    Cls.CAR,
    Cls.BICYCLIST,
    Cls.TRUCK,
    Cls.MOTORCYCLIST,
)
_PLAN += (Cls.CAR, Cls.BICYCLIST, Cls.CAR, Cls.MOTORCYCLIST, Cls.CAR, Cls.CAR)


def ego_motion(town: Town, duration: float, rng: np.random.Generator) -> Along:
    """The ego car drives its loop and passes a turn within ``duration`` s."""
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


def traffic(
    town: Town, ego: Along, duration: float, parked: list[Thing], rng: np.random.Generator
) -> list[Thing]:
    """Everything that moves except the ego car, numbered on from ``parked``; nothing ever runs into anything.

    Args:
        town: street plan. ego: the ego car's motion. duration: s. parked: what stands. rng: decides all.
    """
    times = np.arange(-0.1, duration + 0.35, 0.2)
    covered = [discs(make_thing(0, ego_body(), ego), times)]
    standing = [discs(thing, times[:1]) for thing in parked]
    spots = np.concatenate([centres[0] for centres, _ in standing])
    rooms = np.concatenate([np.full(centres.shape[1], radius) for centres, radius in standing])
    things: list[Thing] = []

    def admit(model: Model, motion: Motion) -> bool:
        thing = make_thing(len(parked) + len(things) + 1, model, motion)
        centres, radius = discs(thing, times)
        if (np.linalg.norm(centres[:, :, None, :] - spots, axis=-1) < radius + rooms + 0.1).any():
            return False
        for others, other_radius in covered:
            gap = np.linalg.norm(centres[:, :, None, :] - others[:, None, :, :], axis=-1).min()
            if gap < radius + other_radius + 0.3:
                return False
        covered.append((centres, radius))
        things.append(thing)
        return True

    ahead, behind = (
        Cls(int(c))
        for c in rng.choice([Cls.CAR, Cls.TRUCK, Cls.BUS, Cls.MOTORCYCLIST], 2, replace=False)
    )
    admit(_model(ahead, rng), Along(town.route, ego.start + rng.uniform(15.0, 20.0), ego.speed))
    admit(_model(behind, rng), Along(town.route, ego.start - rng.uniform(13.0, 18.0), ego.speed))
    for cls in _PLAN:
        for _ in range(25):
            if admit(_model(cls, rng), _lane(town, ego, duration, cls, rng)):
                break
    for k in range(14):
        cls = Cls.CHILD if k % 4 == 3 else Cls.ADULT
        admit(pedestrian(rng, cls, walking=True), _sidewalk(town, ego, duration, rng))
    return things


def _lane(town: Town, ego: Along, duration: float, cls: Cls, rng: np.random.Generator) -> Straight:
    """Straight down some lane, passing near the ego car half-way through the scene."""
    x, y, _, _ = ego.at(duration / 2)
    speed, sign = float(rng.uniform(*_SPEED[cls])), float(rng.choice([-1.0, 1.0]))
    lane = (LANE + 0.9 if cls == Cls.BICYCLIST else LANE) * sign
    north = rng.random() < 0.5
    lines, other, along = (town.xs, x, y) if north else (town.ys, y, x)
    line = lines[np.abs(lines - other).argsort()[0]]
    middle = along + float(rng.uniform(-28.0, 28.0)) - sign * speed * duration / 2
    if north:
        return Straight(float(line + lane), middle, 0.0, sign * math.pi / 2, speed)
    return Straight(middle, float(line - lane), 0.0, 0.0 if sign > 0 else math.pi, speed)


def _sidewalk(town: Town, ego: Along, duration: float, rng: np.random.Generator) -> Straight:
    """A walk along a sidewalk near the ego car."""
    x, y, _, _ = ego.at(duration / 2)
    near = [
        k for k in town.kerbs if np.hypot(*(k.start + k.forward * k.length / 2 - (x, y))) < 45.0
    ]
    kerb = near[int(rng.integers(len(near)))]
    back = bool(rng.random() < 0.5)
    place = kerb.at(float(rng.uniform(0, kerb.length)), float(rng.uniform(1.7, 3.4)), KERB_HEIGHT)
    return Straight(*place, kerb.yaw + math.pi * back, float(rng.uniform(0.9, 1.6)))

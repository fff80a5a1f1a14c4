"""What stands in the synthetic town: one table from internal classes to raw label ids of nuScenes and SemanticKITTI.

nuScenes ids follow the nuScenes-lidarseg category order (0 noise .. 31 vehicle.ego); SemanticKITTI ids follow
semantic-kitti-api's ``semantic-kitti.yaml``, where a moving object carries an id of its own (252..259).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

__all__ = [
    "KITTI_MOVING",
    "KITTI_STATIC",
    "NUSCENES_CATEGORIES",
    "NUSCENES_RAW",
    "SPECS",
    "ClassSpec",
    "Cls",
]

NUSCENES_CATEGORIES: tuple[str, ...] = (
    "noise",
    "animal",
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "movable_object.trafficcone",
    "static_object.bicycle_rack",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
    "flat.driveable_surface",
    "flat.other",
    "flat.sidewalk",
    "flat.terrain",
    "static.manmade",
    "static.other",
    "static.vegetation",
    "vehicle.ego",
)


class Cls(IntEnum):
    """Internal class of a surface."""

    NOISE = 0
    ROAD = 1
    LANE_MARKING = 2
    PARKING = 3
    SIDEWALK = 4
    TERRAIN = 5
    OTHER_FLAT = 6
    BUILDING = 7
    WALL = 8
    FENCE = 9
    POLE = 10
    SIGN = 11
    VEGETATION = 12
    TRUNK = 13
    BARRIER = 14
    CONE = 15
    DEBRIS = 16
    CAR = 17
    TRUCK = 18
    BUS = 19
    TRAILER = 20
    CONSTRUCTION = 21
    MOTORCYCLE = 22
    MOTORCYCLIST = 23
    BICYCLE = 24
    BICYCLIST = 25
    ADULT = 26
    CHILD = 27
    WORKER = 28
    EGO = 29
    TRAFFIC_LIGHT = 30


@dataclass(frozen=True)
class ClassSpec:
    """Raw ids of one class.

    Attributes:
        nuscenes: lidarseg category index.
        kitti: SemanticKITTI raw id when at rest.
        kitti_moving: SemanticKITTI raw id when moving.
        kitti_instance: SemanticKITTI gives its members instance ids.
    """

    nuscenes: int
    kitti: int
    kitti_moving: int = 0
    kitti_instance: bool = False


SPECS: dict[Cls, ClassSpec] = {
    Cls.NOISE: ClassSpec(0, 1),
    Cls.ROAD: ClassSpec(24, 40),
    Cls.LANE_MARKING: ClassSpec(24, 60),
    Cls.PARKING: ClassSpec(24, 44),
    Cls.SIDEWALK: ClassSpec(26, 48),
    Cls.TERRAIN: ClassSpec(27, 72),
    Cls.OTHER_FLAT: ClassSpec(25, 49),
    Cls.BUILDING: ClassSpec(28, 50),
    Cls.WALL: ClassSpec(28, 51),  # SemanticKITTI counts small walls and crash barriers as fence
    Cls.FENCE: ClassSpec(28, 51),
    Cls.POLE: ClassSpec(28, 80),
    Cls.SIGN: ClassSpec(28, 81),
    Cls.VEGETATION: ClassSpec(30, 70),
    Cls.TRUNK: ClassSpec(30, 71),
    Cls.BARRIER: ClassSpec(9, 51),
    Cls.CONE: ClassSpec(12, 99),
    Cls.DEBRIS: ClassSpec(10, 99),
    Cls.CAR: ClassSpec(17, 10, 252, True),
    Cls.TRUCK: ClassSpec(23, 18, 258, True),
    Cls.BUS: ClassSpec(16, 13, 257, True),
    Cls.TRAILER: ClassSpec(22, 20, 259, True),
    Cls.CONSTRUCTION: ClassSpec(18, 20, 259, True),
    Cls.MOTORCYCLE: ClassSpec(21, 15, 0, True),
    Cls.MOTORCYCLIST: ClassSpec(21, 32, 255, True),
    Cls.BICYCLE: ClassSpec(14, 11, 0, True),
    Cls.BICYCLIST: ClassSpec(14, 31, 253, True),
    Cls.ADULT: ClassSpec(2, 30, 254, True),
    Cls.CHILD: ClassSpec(3, 30, 254, True),
    Cls.WORKER: ClassSpec(4, 30, 254, True),
    Cls.EGO: ClassSpec(31, 0),
    Cls.TRAFFIC_LIGHT: ClassSpec(28, 81),  # neither data set tells it from a sign
}

NUSCENES_RAW = np.array([SPECS[c].nuscenes for c in Cls], np.uint8)
KITTI_STATIC = np.array([SPECS[c].kitti for c in Cls], np.uint32)
KITTI_MOVING = np.array([SPECS[c].kitti_moving or SPECS[c].kitti for c in Cls], np.uint32)

"""The world's classes as Waymo's: all 22 of them occur, and fences, barriers and debris are none of them."""

from __future__ import annotations

import numpy as np

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.raycast import KERB

__all__ = ["labels_of"]

_CURB = 17
_CLASSES = {  # Segmentation.Type; what is not listed is 0, undefined
    Cls.CAR: 1,
    Cls.TRUCK: 2,
    Cls.BUS: 3,
    Cls.TRAILER: 4,
    Cls.CONSTRUCTION: 4,
    Cls.MOTORCYCLIST: 5,
    Cls.BICYCLIST: 6,
    Cls.ADULT: 7,
    Cls.CHILD: 7,
    Cls.WORKER: 7,
    Cls.SIGN: 8,
    Cls.TRAFFIC_LIGHT: 9,
    Cls.POLE: 10,
    Cls.CONE: 11,
    Cls.BICYCLE: 12,
    Cls.MOTORCYCLE: 13,
    Cls.BUILDING: 14,
    Cls.WALL: 14,
    Cls.VEGETATION: 15,
    Cls.TRUNK: 16,
    Cls.ROAD: 18,
    Cls.PARKING: 18,
    Cls.LANE_MARKING: 19,
    Cls.OTHER_FLAT: 20,
    Cls.TERRAIN: 21,
    Cls.SIDEWALK: 22,
}
_OBJECTS = (1, 2, 3, 4, 5, 6, 7, 11, 12, 13)  # with instances
_TYPE = np.array([_CLASSES.get(cls, 0) for cls in Cls], np.int32)


def labels_of(what: np.ndarray, cls: np.ndarray, thing: np.ndarray) -> np.ndarray:
    """Encode what rays met as Waymo does.

    Args:
        what: [N], solid, ground or kerb, as `raycast.cast` tells. cls, thing: [N], internal class and object number.

    Returns:
        i32 [N, 2], instance (0 none) and class.
    """
    kind = np.where(what == KERB, _CURB, _TYPE[cls])
    instance = np.where(np.isin(kind, _OBJECTS), thing, 0)
    return np.stack([instance, kind], 1).astype(np.int32)

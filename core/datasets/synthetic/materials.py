"""Materials: how a surface looks to a camera and how it answers a laser.

Reflectances of look-alike shapes (hedge and wall, lawn and paving) overlap on purpose: only colour tells them apart.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from core.datasets.synthetic.classes import Cls

__all__ = [
    "DEPTH",
    "DROP",
    "GROUND_CLASS",
    "GROUND_COLOUR",
    "GROUND_REFLECTANCE",
    "GROUND_ROUGHNESS",
    "REFLECTANCE",
    "Ground",
    "Mat",
]


class Mat(IntEnum):
    """Material of a solid; the renderer picks its texture by this number."""

    PAINT = 0
    FACADE = 1
    GLASS = 2
    FOLIAGE = 3
    BARK = 4
    METAL = 5
    RETRO = 6
    CONCRETE = 7
    RUBBER = 8
    CLOTH = 9
    STRIPES = 10  # horizontal bands, second colour white
    CABIN = 11  # painted roof, glass sides
    COACH = 12  # painted with a band of windows
    SLATS = 13
    BRICK = 14
    TILES = 15


class Ground(IntEnum):
    """Material of the ground map; ids from ``RAISED`` on lie on the kerb level."""

    ASPHALT = 0
    MARKING = 1
    PARKING = 2
    SIDEWALK = 3
    GRASS = 4
    DIRT = 5
    PAVERS = 6
    OCHRE = 7


# in the order of Mat
REFLECTANCE = np.array(
    [0.35, 0.35, 0.10, 0.33, 0.28, 0.40, 3.00, 0.33, 0.06, 0.30, 0.45, 0.18, 0.33, 0.32, 0.33, 0.3]
)
DROP = np.array(
    [0.03, 0.02, 0.55, 0.06, 0.02, 0.03, 0.00, 0.01, 0.10, 0.03, 0.01, 0.35, 0.06, 0.15, 0.01, 0.02]
)
DEPTH = np.array(
    [0.0, 0, 0, 0.12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
)  # m, mean extra depth a pulse reaches

_GROUND = {  # class, sRGB, reflectance, roughness (m, 1 sigma along the ray)
    Ground.ASPHALT: (Cls.ROAD, (78, 78, 82), 0.14, 0.0),
    Ground.MARKING: (Cls.LANE_MARKING, (222, 222, 214), 0.62, 0.0),
    Ground.PARKING: (Cls.PARKING, (112, 104, 106), 0.17, 0.0),
    Ground.SIDEWALK: (Cls.SIDEWALK, (168, 166, 160), 0.29, 0.0),
    Ground.GRASS: (Cls.TERRAIN, (84, 124, 48), 0.31, 0.015),
    Ground.DIRT: (Cls.TERRAIN, (132, 102, 66), 0.27, 0.015),
    Ground.PAVERS: (Cls.OTHER_FLAT, (158, 84, 68), 0.28, 0.0),
    Ground.OCHRE: (Cls.OTHER_FLAT, (196, 162, 92), 0.30, 0.0),
}
# in the order of Ground
GROUND_CLASS = np.array([_GROUND[g][0] for g in Ground], np.int32)
GROUND_COLOUR = np.array([_GROUND[g][1] for g in Ground]) / 255.0
GROUND_REFLECTANCE = np.array([_GROUND[g][2] for g in Ground])
GROUND_ROUGHNESS = np.array([_GROUND[g][3] for g in Ground])

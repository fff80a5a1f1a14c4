"""Where the sensors sit and how a laser answers: the nuScenes rig and the KITTI rig, nominal values.

Frames: ego x forward, y left, z up, origin on the ground below the rear axle; camera x right, y down, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.materials import (
    DEPTH,
    DROP,
    GROUND_CLASS,
    GROUND_REFLECTANCE,
    GROUND_ROUGHNESS,
)
from core.datasets.synthetic.raycast import NOTHING, cast
from core.datasets.synthetic.scene import Snapshot, rigid
from core.datasets.synthetic.solids import rotation

__all__ = [
    "HDL64",
    "KITTI_CAMERA",
    "KITTI_IMAGE",
    "KITTI_LIDAR",
    "KITTI_P",
    "LIDAR32",
    "NUSCENES_CAMERAS",
]
__all__ += ["NUSCENES_LIDAR", "CameraModel", "LidarModel", "Sweep", "scan"]

_LOOK = np.array(
    [[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]
)  # camera axes in a frame with x forward, y left, z up


@dataclass(frozen=True)
class LidarModel:
    """A spinning laser scanner.

    Attributes:
        elevations: rad, one per beam, in ring order. columns: firings per turn.
        start, clockwise: azimuth of the first firing, rad, and sense of rotation seen from above.
        ring_major: points are stored ring by ring (KITTI), else firing by firing (nuScenes).
        reach: m. strength: how far a weak surface still answers. scale: intensity of reflectance 1.
        ceiling: greatest intensity. step: quantisation of the intensity.
    """

    elevations: tuple[float, ...]
    columns: int
    start: float
    clockwise: bool
    ring_major: bool
    reach: float
    strength: float
    scale: float
    ceiling: float
    step: float

    def rays(self, density: float) -> tuple[np.ndarray, np.ndarray]:
        """Unit directions f64 [n, 3] in the sensor's x-forward frame and ring numbers u8 [n]; fewer firings if < 1."""
        columns, beams = max(8, round(self.columns * density)), np.array(self.elevations)
        azimuth = (
            self.start + (-1 if self.clockwise else 1) * 2 * math.pi * np.arange(columns) / columns
        )
        grid = (
            [beams[:, None], azimuth[None, :]]
            if self.ring_major
            else [beams[None, :], azimuth[:, None]]
        )
        elevation, azimuth = np.broadcast_arrays(*grid)
        flat = np.cos(elevation)
        directions = np.stack(
            [flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], -1
        )
        axis = 0 if self.ring_major else 1
        ring = np.broadcast_to(np.expand_dims(np.arange(len(beams)), 1 - axis), elevation.shape)
        return directions.reshape(-1, 3), ring.reshape(-1).astype(np.uint8)


LIDAR32 = LidarModel(
    elevations=tuple(np.radians(np.linspace(-30.67, 10.67, 32))),
    columns=1084,
    start=math.pi,
    clockwise=True,
    ring_major=False,
    reach=100.0,
    strength=55.0,
    scale=75.0,
    ceiling=255.0,
    step=1.0,
)
HDL64 = LidarModel(
    elevations=tuple(
        np.radians(np.concatenate([np.linspace(2.0, -8.33, 32), np.linspace(-8.83, -24.33, 32)]))
    ),
    columns=2083,
    start=0.0,
    clockwise=False,
    ring_major=True,
    reach=80.0,
    strength=60.0,
    scale=1.1,
    ceiling=0.99,
    step=0.01,
)


@dataclass(frozen=True)
class Sweep:
    """What one turn of the scanner returns.

    Attributes:
        points: f32 [N, 3] m, sensor frame. intensity: f32 [N]. ring: u8 [N].
        cls, thing: i32 [N], internal class and object number (0 none).
    """

    points: np.ndarray
    intensity: np.ndarray
    ring: np.ndarray
    cls: np.ndarray
    thing: np.ndarray


def scan(
    snapshot: Snapshot,
    mount: np.ndarray,
    model: LidarModel,
    density: float,
    rng: np.random.Generator,
) -> Sweep:
    """One turn at one instant (no motion within the turn).

    Args:
        snapshot: the world. mount: f64 [4, 4], x-forward sensor frame -> ego. model: the scanner.
        density: share of the firings. rng: noise and drop-outs.
    """
    rays, ring = model.rays(density)
    pose = snapshot.ego @ mount
    solids, total = snapshot.solids, len(snapshot.solids.kind)
    distance, what, cosine, ground = cast(
        snapshot.geometry, pose[:3, 3].copy(), rays @ pose[:3, :3].T, model.reach, total
    )
    solid = np.maximum(what, 0)
    on_solid, hit = what >= 0, what != NOTHING
    material = solids.material[solid]
    reflectance = np.where(on_solid, solids.reflectance[solid], GROUND_REFLECTANCE[ground])
    reflectance = reflectance * np.clip(rng.normal(1.0, 0.18, len(rays)), 0.4, 1.6)
    cls = np.where(on_solid, solids.cls[solid], GROUND_CLASS[ground])
    thing = np.where(on_solid, solids.thing[solid], 0)

    distance = np.where(hit, distance, 0.0)
    signal = reflectance * np.sqrt(cosine) * (model.strength / np.maximum(distance, 1.0)) ** 2
    answer = (1.0 - np.exp(-6.0 * signal)) * (1.0 - np.where(on_solid, DROP[material], 0.01))
    kept = hit & (rng.random(len(rays)) < answer)
    rough = np.where(on_solid, 0.0, GROUND_ROUGHNESS[ground])
    deep = np.where(on_solid, DEPTH[material], 0.0) * np.minimum(
        rng.exponential(1.0, len(rays)), 2.5
    )
    jitter = np.clip(
        rng.standard_normal(len(rays)), -2.0, 2.0
    )  # bounded, so that points stay in their boxes
    distance = distance + jitter * np.hypot(0.018, rough) + deep
    kept &= distance <= model.reach
    stray = kept & (rng.random(len(rays)) < 2e-4)  # dust and crosstalk
    distance = np.where(stray, distance * rng.uniform(0.2, 0.9, len(rays)), distance)
    cls, thing = np.where(stray, int(Cls.NOISE), cls), np.where(stray, 0, thing)
    intensity = model.scale * reflectance * (0.35 + 0.65 * cosine) * np.exp(-distance / 90.0)
    intensity = np.round(np.clip(intensity, 0.0, model.ceiling) / model.step) * model.step
    return Sweep(
        (rays * distance[:, None])[kept].astype(np.float32),
        intensity[kept].astype(np.float32),
        ring[kept],
        cls[kept].astype(np.int32),
        thing[kept].astype(np.int32),
    )


@dataclass(frozen=True)
class CameraModel:
    """A pinhole camera on the car.

    Attributes:
        name: channel. position: m, ego frame. yaw, pitch: rad. focal, cx, cy: px at full size. width, height: px.
        lag: s before the laser's time stamp at which it fires.
    """

    name: str
    position: tuple[float, float, float]
    yaw: float
    pitch: float
    focal: float
    cx: float
    cy: float
    width: int
    height: int
    lag: float

    @cached_property
    def mount(self) -> np.ndarray:
        """Camera -> ego, f64 [4, 4]."""
        return rigid(rotation(self.yaw, self.pitch) @ _LOOK, self.position)

    def matrix(self, scale: float) -> np.ndarray:
        """Intrinsics of the image resized by ``scale``, f64 [3, 3] px."""
        return np.array(
            [
                [self.focal * scale, 0, self.cx * scale],
                [0, self.focal * scale, self.cy * scale],
                [0, 0, 1],
            ]
        )

    def size(self, scale: float) -> tuple[int, int]:
        """(width, height) px of the image resized by ``scale``."""
        return max(1, round(self.width * scale)), max(1, round(self.height * scale))


def _camera(
    name: str, x: float, y: float, z: float, yaw: float, focal: float, lag: float
) -> CameraModel:
    return CameraModel(
        name, (x, y, z), math.radians(yaw), 0.004, focal, 812.0, 488.0, 1600, 900, lag
    )


NUSCENES_LIDAR = rigid(
    rotation(0.0, 0.006, -0.004), (0.94, 0.0, 1.84)
)  # x-forward sensor frame -> ego
NUSCENES_CAMERAS = (
    _camera("CAM_FRONT_LEFT", 1.52, 0.49, 1.51, 55.0, 1270.0, 0.043),
    _camera("CAM_FRONT", 1.70, 0.02, 1.51, 0.0, 1266.0, 0.035),
    _camera("CAM_FRONT_RIGHT", 1.55, -0.49, 1.50, -56.0, 1260.0, 0.028),
    _camera("CAM_BACK_RIGHT", 1.01, -0.48, 1.56, -110.0, 1259.0, 0.020),
    _camera("CAM_BACK", 0.03, 0.00, 1.58, 180.0, 809.0, 0.010),
    _camera("CAM_BACK_LEFT", 1.04, 0.48, 1.59, 108.0, 1256.0, 0.002),
)

KITTI_LIDAR = rigid(np.eye(3), (0.77, 0.0, 1.73))
KITTI_CAMERA = rigid(
    rotation(0.0005, 0.008) @ _LOOK, (0.27, 0.0, -0.08)
)  # rectified camera 0 -> Velodyne
KITTI_IMAGE = (1241, 376)
_FOCAL, _CX, _CY = 718.9, 607.2, 185.2
KITTI_P = np.array(  # P0..P3 at full size: baselines of 0.06, -0.48 and 0.41 m from camera 0
    [
        [[_FOCAL, 0, _CX, _FOCAL * b], [0, _FOCAL, _CY, 0], [0, 0, 1, 0]]
        for b in (0.0, -0.537, 0.06, -0.469)
    ]
)

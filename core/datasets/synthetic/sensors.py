"""Where the sensors sit and how a laser answers: the nuScenes rig and the KITTI rig, nominal values.

Frames: ego x forward, y left, z up, origin on the ground below the rear axle; camera x right, y down, z forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from core.datasets.synthetic.classes import Cls
from core.datasets.synthetic.raycast import cast
from core.datasets.synthetic.response import brightness, echo, surfaces
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
    "NUSCENES_LIDAR",
    "CameraModel",
    "LidarModel",
    "Sweep",
    "scan",
]

# camera axes in a frame with x forward, y left, z up
_LOOK = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
_STRAY = 2e-4  # share of the points that are dust and crosstalk


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
        """List the rays of one turn, in the order in which points are stored.

        Args:
            density: share of the firings.

        Returns:
            unit directions f64 [n, 3] in the sensor's x-forward frame, and ring numbers u8 [n].
        """
        columns = max(8, round(self.columns * density))
        sense = -1 if self.clockwise else 1
        turn = self.start + sense * 2 * math.pi * np.arange(columns) / columns
        rings = np.arange(len(self.elevations))
        if self.ring_major:
            ring, azimuth = np.meshgrid(rings, turn, indexing="ij")
        else:
            ring, azimuth = np.meshgrid(rings, turn, indexing="xy")
        elevation = np.array(self.elevations)[ring]
        flat = np.cos(elevation)
        x = flat * np.cos(azimuth)
        y = flat * np.sin(azimuth)
        directions = np.stack([x, y, np.sin(elevation)], -1)
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
_UPPER = np.linspace(2.0, -8.33, 32)  # degrees, of an HDL-64E's two blocks of lasers
_LOWER = np.linspace(-8.83, -24.33, 32)
HDL64 = LidarModel(
    elevations=tuple(np.radians(np.concatenate([_UPPER, _LOWER]))),
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
    """Simulate one turn at one instant (no motion within the turn).

    Args:
        snapshot: the world. mount: f64 [4, 4], x-forward sensor frame -> ego. model: the scanner.
        density: share of the firings. rng: noise and drop-outs.
    """
    rays, ring = model.rays(density)
    count = len(rays)
    pose = snapshot.ego @ mount
    solids = snapshot.solids
    distance, what, cosine, ground = cast(
        snapshot.geometry,
        pose[:3, 3].copy(),
        rays @ pose[:3, :3].T,
        model.reach,
        len(solids.kind),
    )
    surface = surfaces(solids, what, ground)
    heard, distance, reflectance, _ = echo(surface, distance, cosine, model.strength, rng)
    kept = heard & (distance <= model.reach)
    stray = kept & (rng.random(count) < _STRAY)
    distance = np.where(stray, distance * rng.uniform(0.2, 0.9, count), distance)
    cls = np.where(stray, int(Cls.NOISE), surface.cls)
    thing = np.where(stray, 0, surface.thing)
    intensity = brightness(model.scale * reflectance, cosine, distance)
    intensity = np.round(np.clip(intensity, 0.0, model.ceiling) / model.step) * model.step
    return Sweep(
        points=(rays * distance[:, None])[kept].astype(np.float32),
        intensity=intensity[kept].astype(np.float32),
        ring=ring[kept],
        cls=cls[kept].astype(np.int32),
        thing=thing[kept].astype(np.int32),
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
        """Return the intrinsics of the image resized by ``scale``, f64 [3, 3] px."""
        return np.array(
            [
                [self.focal * scale, 0, self.cx * scale],
                [0, self.focal * scale, self.cy * scale],
                [0, 0, 1],
            ]
        )

    def size(self, scale: float) -> tuple[int, int]:
        """Return (width, height) px of the image resized by ``scale``."""
        width = max(1, round(self.width * scale))
        height = max(1, round(self.height * scale))
        return width, height


def _camera(
    name: str, x: float, y: float, z: float, yaw: float, focal: float, lag: float
) -> CameraModel:
    """Describe one of nuScenes' cameras; ``yaw`` in degrees."""
    return CameraModel(
        name=name,
        position=(x, y, z),
        yaw=math.radians(yaw),
        pitch=0.004,
        focal=focal,
        cx=812.0,
        cy=488.0,
        width=1600,
        height=900,
        lag=lag,
    )


# x-forward sensor frame -> ego
NUSCENES_LIDAR = rigid(rotation(0.0, 0.006, -0.004), (0.94, 0.0, 1.84))
NUSCENES_CAMERAS = (
    _camera("CAM_FRONT_LEFT", 1.52, 0.49, 1.51, 55.0, 1270.0, 0.043),
    _camera("CAM_FRONT", 1.70, 0.02, 1.51, 0.0, 1266.0, 0.035),
    _camera("CAM_FRONT_RIGHT", 1.55, -0.49, 1.50, -56.0, 1260.0, 0.028),
    _camera("CAM_BACK_RIGHT", 1.01, -0.48, 1.56, -110.0, 1259.0, 0.020),
    _camera("CAM_BACK", 0.03, 0.00, 1.58, 180.0, 809.0, 0.010),
    _camera("CAM_BACK_LEFT", 1.04, 0.48, 1.59, 108.0, 1256.0, 0.002),
)

KITTI_LIDAR = rigid(np.eye(3), (0.77, 0.0, 1.73))
# rectified camera 0 -> Velodyne
KITTI_CAMERA = rigid(rotation(0.0005, 0.008) @ _LOOK, (0.27, 0.0, -0.08))
KITTI_IMAGE = (1241, 376)  # px, width and height
_FOCAL = 718.9  # px
_CX = 607.2
_CY = 185.2
_BASELINES = (0.0, -0.537, 0.06, -0.469)  # m, of cameras 0 to 3


def _projection(baseline: float) -> list[list[float]]:
    return [
        [_FOCAL, 0, _CX, _FOCAL * baseline],
        [0, _FOCAL, _CY, 0],
        [0, 0, 1, 0],
    ]


# P0..P3 at full size, f64 [4, 3, 4]
KITTI_P = np.array([_projection(baseline) for baseline in _BASELINES])

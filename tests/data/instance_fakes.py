"""Small instance databases, scans with a patch of road, and a data set of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from data_fakes import make_scan
from numpy.typing import ArrayLike

from core.contracts import Camera, Scan
from core.data.instances.build import anchors
from core.data.instances.database import Database, index_dtype
from core.data.instances.paste import U2MKDPaste
from core.data.instances.writer import Part, write_database
from core.data.paste_config import ThingRule
from core.labels import NUSCENES

CAR, PEDESTRIAN, ROAD, MANMADE = (
    NUSCENES.classes.index(n) for n in ("car", "pedestrian", "driveable_surface", "manmade")
)
CENTRE = np.array([12.5, 2.5, -1.75])  # of a 5 m cell, exact in float32
RULES = {
    name: ThingRule(min_points=1, ground=("driveable_surface",)) for name in ("car", "pedestrian")
}


def patch_of_road(centre: ArrayLike = CENTRE, points: int = 24) -> np.ndarray:
    """Points on a circle of 2 m around the centre of a cell, none of them where an object will stand."""
    turn = np.arange(points) * 2 * np.pi / points
    return np.column_stack([2 * np.cos(turn), 2 * np.sin(turn), np.zeros(points)]) + centre


def road_scan(
    *,
    more: ArrayLike = (),
    labels: Sequence[int] = (),
    centre: ArrayLike = CENTRE,
    points: int = 24,
    cameras: tuple[Camera, ...] = (),
) -> Scan:
    """A patch of road, then ``more`` points with their ``labels``."""
    xyz = np.concatenate([patch_of_road(centre, points), np.reshape(more, (-1, 3))])
    return make_scan(xyz, labels=[*[ROAD] * points, *labels], cameras=cameras)


class _Given:
    """Work whose result is known beforehand."""

    def __init__(self, part: Part) -> None:
        self.part = part

    def __call__(self, _: int) -> Part:
        return self.part


def toy_database(
    folder: Path, objects: list[tuple[int, np.ndarray]], token: str = "elsewhere"
) -> Database:
    """A database of nuScenes classes: (train id, f32 [n, 4] points) each, in this order."""
    index = np.zeros(len(objects), index_dtype(len(token)))
    index["cls"], index["count"] = [cls for cls, _ in objects], [len(cloud) for _, cloud in objects]
    index["token"], index["instance"] = token.encode(), np.arange(1, len(objects) + 1)
    points = np.concatenate([np.asarray(cloud, np.float32) for _, cloud in objects])
    anchors(points, index)
    return write_database(
        folder, {"toy": True}, NUSCENES, (CAR, PEDESTRIAN), _Given(Part(points, index)), [0], 1
    )


def box_of_points(centre: ArrayLike, count: int = 40, intensity: float = 7.0) -> np.ndarray:
    """f32 [count, 4], a cube of 1 m whose lowest point lies at the centre's height."""
    rng = np.random.default_rng(count)
    cloud = rng.uniform(-0.5, 0.5, (count, 3))
    cloud[:, 2] -= cloud[:, 2].min()
    return np.column_stack([cloud + np.asarray(centre), np.full(count, intensity)]).astype(
        np.float32
    )


def paste_config(folder: Path, **keys: Any) -> U2MKDPaste:
    """Cars and pedestrians of any size, put exactly on the centres of road cells."""
    plain = {"database": folder, "things": RULES, "jitter": (0, 0), "occlude": False}
    return U2MKDPaste(**(plain | keys))


class RoadDataset:
    """``count`` scans with patches of road all around, sweep points after the keyframe's; all different."""

    labels = NUSCENES
    budget = None

    def __init__(self, count: int = 4, cameras: tuple[Camera, ...] = ()) -> None:
        self.count, self.cameras = count, cameras

    def __len__(self) -> int:
        return self.count

    def token(self, index: int) -> str:
        return f"scan{index}"

    def load(self, index: int, *, cameras: bool = True) -> Scan:
        rng = np.random.default_rng(index)
        centres = [(12.5, 2.5, -1.75), (-12.5, 7.5, -1.5), (2.5, -22.5, -1.25)]
        road = np.concatenate([patch_of_road(centre) for centre in centres])
        sweeps = rng.uniform(-20, 20, (30, 3))
        own, count = len(road), len(road) + len(sweeps)
        return make_scan(
            np.concatenate([road + rng.normal(0, 0.01, road.shape), sweeps]),
            labels=[*[ROAD] * own, *[0] * len(sweeps)],
            time_lag=np.where(np.arange(count) < own, 0, 0.05),
            cameras=self.cameras if cameras else (),
            token=self.token(index),
        )

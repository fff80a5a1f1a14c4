"""A street as a 64-beam scanner sees it, stored ring by ring as in KITTI."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from core.contracts import Points, Scan
from core.data.corruptions import PROFILES, Corruption, Scanner
from core.data.corruptions.base import Sweep
from core.labels import SEMANTICKITTI

RINGS, COLUMNS, HEIGHT, WALL = 64, 240, 1.73, 30.0
CAR, ROAD, BUILDING = 1, 9, 13
VEHICLES = np.isin(np.arange(256), (CAR, 2, 3, 4, 5, 7, 8))
SENSOR = Scanner(beams=RINGS, scale=255.0, vehicles=VEHICLES)


def street(token: str = "08/000000", columns: int = COLUMNS, seed: int = 0) -> Scan:
    """Level ground at -1.73 m inside a round wall at 30 m; a sector of the wall is a car. Instances number the points
    from 1, so that a corrupted scan says where each point comes from."""
    rng = np.random.default_rng(seed)
    elevation = np.radians(np.linspace(2, -24.8, RINGS))[:, None]
    azimuth = (np.arange(columns) + 0.5)[None] * (2 * np.pi / columns)
    down = np.where(elevation < 0, HEIGHT / np.maximum(-np.sin(elevation), 1e-9), np.inf)
    flat = WALL / np.cos(elevation)
    distance = np.broadcast_to(np.minimum(down, flat), (RINGS, columns))
    points = np.stack(
        [
            distance * np.cos(elevation) * np.cos(azimuth),
            distance * np.cos(elevation) * np.sin(azimuth),
            distance * np.sin(elevation),
        ],
        -1,
    ).reshape(-1, 3)
    on_ground = np.broadcast_to(down < flat, distance.shape).reshape(-1)
    sector = np.broadcast_to(azimuth < 0.5, distance.shape).reshape(-1)
    count = len(points)
    return Scan(
        token=token,
        points=Points(
            xyz=points.astype(np.float32),
            intensity=(rng.integers(5, 100, count) / 100).astype(np.float32),
            label=np.where(on_ground, ROAD, np.where(sector, CAR, BUILDING)).astype(np.uint8),
            instance=np.arange(1, count + 1, dtype=np.int32),
        ),
        pose=np.eye(4),
    )


def sweep_of(scan: Scan) -> Sweep:
    """What a corruption function gets."""
    counts = scan.intensity * np.float32(255)
    return Sweep(scan.xyz, counts, VEHICLES[scan.labels], RINGS)


def part(scan: Scan, rows: np.ndarray | slice) -> Scan:
    """Some points of a scan."""
    return replace(scan, points=scan.points.take(rows))


def named(profile: str, name: str) -> Corruption:
    """One corruption."""
    return next(c for c in PROFILES[profile] if c.name == name)


ALL = [c for corruptions in PROFILES.values() for c in corruptions]
LABELS = SEMANTICKITTI

"""Scans of poles that come and go before a wall, and the published motion features of them in plain float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.datasets.motion_config import MotionConfig

TR = np.array([[0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, -0.3], [0, 0, 0, 1.0]])  # KITTI's axes


def pose(number: int) -> np.ndarray:
    """Scanner -> world: half a metre on, a little to the left, turning slowly."""
    angle = 0.01 * number
    moved = np.eye(4)
    moved[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    moved[:3, 3] = [0.5 * number, 0.05 * number, 0.01 * number]
    return moved


def wall() -> np.ndarray:
    """A round wall far off, f64 [M, 3] m in the world."""
    angle = np.radians(np.arange(0, 360, 0.5))
    foot = np.stack([50 * np.cos(angle), 50 * np.sin(angle), np.full(len(angle), -1.5)], 1)
    return np.concatenate([foot, foot + [0, 0, 2.0]])


def poles(seed: int, count: int = 25) -> np.ndarray:
    """Upright poles at some of 200 places, f64 [M, 3] m in the world."""
    places = np.random.default_rng(0)
    angle, distance = places.uniform(-np.pi, np.pi, 200), places.uniform(5, 40, 200)
    rng = np.random.default_rng(seed + 1)
    chosen = rng.choice(200, count, replace=False)
    bottom = np.full((count, 3), -1.4)
    bottom[:, 0] = (distance * np.cos(angle))[chosen]
    bottom[:, 1] = (distance * np.sin(angle))[chosen]
    steps = rng.uniform(0.3, 3.2, count)[:, None] * np.linspace(0, 1, 5)
    points = np.repeat(bottom[:, None], 5, 1)
    points[..., 2] += steps
    return points.reshape(-1, 3)


def scan(number: int, world: np.ndarray) -> np.ndarray:
    """World points as the scanner has them, f32 [N, 3] m."""
    back = np.linalg.inv(pose(number))
    return (world @ back[:3, :3].T + back[:3, 3]).astype(np.float32)


def sequence(count: int, other: int | None = None) -> list[np.ndarray]:
    """Scans with poles of their own each; those of scan ``other`` are different ones."""
    scans = []
    for number in range(count):
        seed = number + 1000 * (number == other)
        scans.append(scan(number, np.concatenate([wall(), poles(seed)])))
    return scans


def _cells(
    xyz: np.ndarray, move: np.ndarray, config: MotionConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Cell of each point, -1 = none, and its height f32."""
    p = xyz.astype(np.float64)
    x, y, z = (m[0] * p[:, 0] + m[1] * p[:, 1] + m[2] * p[:, 2] + m[3] for m in move[:3])
    rho, yaw = np.sqrt(x * x + y * y + z * z), np.arctan2(y, x)
    low, high = np.radians(config.azimuth)
    valid = (rho > config.range[0]) & (rho < config.range[1])
    valid &= (z > config.height[0]) & (z < config.height[1]) & (yaw >= low) & (yaw <= high)
    rows, columns = config.bins
    row = np.clip(np.floor(rows * (yaw - low) / (high - low)), 0, rows - 1)
    column = np.clip(np.floor(columns * (1 - rho / config.range[1])), 0, columns - 1)
    return np.where(valid, row * columns + column, -1).astype(int), z.astype(np.float32)


def _extent(cells: list, config: MotionConfig) -> np.ndarray:
    size = config.bins[0] * config.bins[1]
    lowest, highest = np.full(size, np.inf, np.float32), np.full(size, -np.inf, np.float32)
    for cell, z in cells:
        np.minimum.at(lowest, cell[cell >= 0], z[cell >= 0])
        np.maximum.at(highest, cell[cell >= 0], z[cell >= 0])
    return np.where(np.isfinite(lowest), highest - lowest, 0).reshape(config.bins)


def _hidden(extent: np.ndarray) -> np.ndarray:
    """Cells with nothing from there outwards; column 0 is the far end."""
    return np.cumsum(extent != 0, 1) == 0


def _residual(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    zero = (np.float32(0.2) * own < other) | (own < np.float32(0.4)) | (own > 4) | _hidden(other)
    return np.where(zero, 0, own - other).ravel()


def published(scans: list, poses: list, config: MotionConfig) -> list[np.ndarray]:
    """F32 [N, 8] of each scan: last window t-3..t, previous t-7..t-4, channel k = t - s."""
    features = [np.zeros((len(s), 8), np.float32) for s in scans]
    for t in range(7, len(scans)):
        window = {}
        for s in range(t - 7, t + 1):
            window[s] = _cells(scans[s], np.linalg.inv(poses[t]) @ poses[s], config)
        last = _extent([window[s] for s in range(t - 3, t + 1)], config)
        previous = _extent([window[s] for s in range(t - 7, t - 3)], config)
        of_last, of_previous = _residual(last, previous), _residual(previous, last)
        for s, (cell, _) in window.items():
            values = of_last if t - s < 4 else of_previous
            features[s][:, t - s] = np.where(cell >= 0, values[cell], 0)
    return features


def write_drive(folder: Path, scans: list[np.ndarray], frames: list[int] | None = None) -> None:
    """SemanticKITTI's files of a drive; poses are those of the camera, whose world is its first frame."""
    (folder / "velodyne").mkdir(parents=True)
    for frame, points in zip(frames or range(len(scans)), scans):
        with_intensity = np.concatenate([points, np.zeros((len(points), 1), np.float32)], 1)
        with_intensity.tofile(folder / "velodyne" / f"{frame:06d}.bin")
    rows = []
    for number in range(max(frames or [len(scans) - 1]) + 1):
        camera = TR @ pose(number) @ np.linalg.inv(TR)
        rows.append(" ".join(f"{value:.12e}" for value in camera[:3].ravel()))
    (folder / "poses.txt").write_text("\n".join(rows) + "\n")
    flat = " ".join(f"{value:.12e}" for value in TR[:3].ravel())
    zeros = "718 0 607 0 0 718 185 0 0 0 1 0"
    (folder / "calib.txt").write_text(f"P2: {zeros}\nTr: {flat}\n")

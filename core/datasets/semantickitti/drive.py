"""SemanticKITTI's files of a drive: calibration, poses and times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from core.errors import UserError
from core.geometry import invert, rigid

__all__ = ["Drive", "read_calib", "read_drive"]


@dataclass(frozen=True)
class Drive:
    """Calibration of one drive: P2 [3, 4], camera_from_lidar [4, 4], LiDAR -> world [F, 4, 4], seconds [F]."""

    p2: np.ndarray | None
    camera_from_lidar: np.ndarray | None
    poses: np.ndarray | None
    times: np.ndarray | None


def read_calib(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read KITTI's odometry ``calib.txt``.

    Returns:
        P2 f64 [3, 4] px of the rectified left colour camera, and camera_from_lidar f64 [4, 4] (``Tr``).

    Raises:
        UserError: a line is missing or malformed.
    """
    found: dict[str, np.ndarray] = {}
    for line in path.read_text(errors="replace").splitlines():
        key, colon, values = line.partition(":")
        key = key.strip()
        if colon and key in ("P2", "Tr"):
            numbers = _numbers(values.split(), 12, path, f"the line '{key}'")
            found[key] = numbers.reshape(3, 4)
    for key in ("P2", "Tr"):
        if key not in found:
            raise UserError(
                f"the line '{key}:' is missing",
                where=str(path),
                cure="The right calib.txt is the one in data_odometry_calib.zip (it has P0 to P3 and Tr); "
                "other KITTI archives hold files of the same name without it",
            )
    return found["P2"], rigid(found["Tr"][:, :3], found["Tr"][:, 3])


def _numbers(words: list[str], columns: int, path: Path, what: str) -> np.ndarray:
    try:
        values = np.array(words, np.float64)
    except ValueError as error:
        raise UserError(
            f"{what} holds something else than numbers ({error})", where=str(path)
        ) from error
    if values.size % columns or not values.size:
        raise UserError(
            f"{what} holds {values.size} numbers; expected {columns} per line", where=str(path)
        )
    return values


@lru_cache(maxsize=64)  # one entry per drive and process
def read_drive(folder: Path) -> Drive:
    """Read what the folder of a sequence has; a file that is not there is None.

    Raises:
        UserError: a file is malformed.
    """
    p2 = camera_from_lidar = poses = times = None
    if (folder / "calib.txt").is_file():
        p2, camera_from_lidar = read_calib(folder / "calib.txt")
    path = folder / "poses.txt"
    if camera_from_lidar is not None and path.is_file():
        rows = _numbers(path.read_text().split(), 12, path, "the file").reshape(-1, 3, 4)
        cameras = np.tile(np.eye(4), (len(rows), 1, 1))
        cameras[:, :3] = rows
        # poses.txt moves the camera; both worlds are anchored at their first frame.
        poses = invert(camera_from_lidar) @ cameras @ camera_from_lidar
    path = folder / "times.txt"
    if path.is_file():
        times = _numbers(path.read_text().split(), 1, path, "the file")
    return Drive(p2, camera_from_lidar, poses, times)

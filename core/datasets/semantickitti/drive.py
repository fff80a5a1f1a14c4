"""SemanticKITTI's files of a drive: calibration, poses and times, each read by the jobs that use it alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.datasets.poses import check_poses, read_poses, read_times
from core.decode import read_text
from core.errors import UserError
from core.geometry import camera_fault, invert, rigid
from core.io import read_once

__all__ = [
    "ARCHIVES",
    "SCANS",
    "Track",
    "check_drive",
    "frame_row",
    "known_poses",
    "read_calib",
    "read_camera",
    "read_lidar_place",
    "read_track",
    "world_from_lidar",
]

_PAGE_KITTI = "the KITTI odometry download page"
_PAGE_SEMANTIC = "the SemanticKITTI download page"
ARCHIVES = {
    "velodyne": f"data_odometry_velodyne.zip, {_PAGE_KITTI}",
    "labels": f"data_odometry_labels.zip, {_PAGE_SEMANTIC}",
    "image_2": f"data_odometry_color.zip, {_PAGE_KITTI}",
    "calib.txt": f"data_odometry_calib.zip, {_PAGE_KITTI}",
    "times.txt": f"data_odometry_calib.zip, {_PAGE_KITTI}",
    "poses.txt": f"data_odometry_labels.zip, {_PAGE_SEMANTIC}",
}
# Scans of the whole sequences: SemanticKITTI's, and from 30 on KITTI-Road's.
SCANS = {
    **{
        "00": 4541,
        "01": 1101,
        "02": 4661,
        "03": 801,
        "04": 271,
        "05": 2761,
        "06": 1101,
        "07": 1101,
    },
    **{
        "08": 4071,
        "09": 1591,
        "10": 1201,
        "11": 921,
        "12": 1061,
        "13": 3281,
        "14": 631,
        "15": 1901,
    },
    **{"16": 1731, "17": 491, "18": 1801, "19": 4981, "20": 831, "21": 2721, "30": 297, "31": 188},
    **{"32": 430, "33": 430, "34": 390, "35": 78, "36": 420, "37": 936, "38": 339, "39": 279},
    **{"40": 1170, "41": 837},
}
_DRIVES = 64  # kept per process
_FARTHEST = 100.0  # m, of the camera from the scanner


@dataclass(frozen=True)
class Track:
    """A drive's way: world_from_lidar f64 [F, 4, 4], seconds f64 [F]."""

    poses: np.ndarray
    times: np.ndarray


def read_calib(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read KITTI's odometry ``calib.txt``.

    Returns:
        P2 f64 [3, 4] px of the rectified left colour camera, and camera_from_lidar f64 [4, 4] (``Tr``).

    Raises:
        UserError: a line is missing, written twice or malformed, or is no camera or rigid transform.
    """
    lines = _calib_lines(path)
    return _p2(path, lines), _tr(path, lines)


def read_lidar_place(path: Path) -> np.ndarray:
    """Read ``Tr`` of a ``calib.txt`` alone, camera_from_lidar f64 [4, 4].

    Raises:
        UserError: the line is missing, written twice or malformed, or is no rigid transform.
    """
    return _tr(path, _calib_lines(path))


@read_once("calib.txt", entries=_DRIVES)
def read_camera(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """:func:`read_calib` of a drive's folder."""
    return read_calib(folder / "calib.txt")


@read_once("calib.txt", "poses.txt", entries=_DRIVES)
def world_from_lidar(folder: Path) -> np.ndarray:
    """Read the poses of a drive, f64 [F, 4, 4].

    Raises:
        UserError: ``poses.txt`` or ``calib.txt`` is missing or malformed, or holds no rigid transforms.
    """
    camera_from_lidar = read_lidar_place(folder / "calib.txt")
    cameras = read_poses(folder / "poses.txt", _cure("poses.txt"))
    # poses.txt moves the camera; both worlds are anchored at their first frame.
    return invert(camera_from_lidar) @ cameras @ camera_from_lidar


@read_once("calib.txt", "poses.txt", entries=_DRIVES)
def known_poses(folder: Path) -> np.ndarray:
    """:func:`world_from_lidar`, empty where the files are missing or damaged, for jobs that need no poses."""
    try:
        return world_from_lidar(folder)
    except UserError:
        return np.empty((0, 4, 4))


@read_once("calib.txt", "poses.txt", "times.txt", entries=_DRIVES)
def read_track(folder: Path) -> Track:
    """Read what joins the sweeps of a drive.

    Raises:
        UserError: see :func:`world_from_lidar`; ``times.txt`` is missing or malformed, or has another number of lines.
    """
    poses = world_from_lidar(folder)
    times = read_times(folder / "times.txt", _cure("times.txt"))
    if len(times) != len(poses):
        raise UserError(
            f"the file has {len(times)} lines, and poses.txt has {len(poses)}: a drive has one of each per frame",
            where=str(folder / "times.txt"),
            cure=f"{_cure('times.txt')}; poses.txt from {ARCHIVES['poses.txt']}",
        )
    return Track(poses, times)


def check_drive(folder: Path) -> None:
    """Refuse poses that by their number are those of another sequence.

    Args:
        folder: of the drive, named by its sequence.

    Raises:
        UserError: they are, or they are as many as ``times.txt`` has not, or see :func:`world_from_lidar`.
    """
    count = len(world_from_lidar(folder))
    if (folder / "times.txt").is_file():
        read_track(folder)
    others = [name for name, scans in SCANS.items() if scans == count]
    if not others or folder.name not in SCANS or folder.name in others:
        return
    raise UserError(
        f"the file has {count} lines, as many as sequence {' or '.join(others)} has scans; sequence {folder.name} has "
        f"{SCANS[folder.name]}",
        where=str(folder / "poses.txt"),
        cure=f"These are the poses of another sequence: unpack them again from {ARCHIVES['poses.txt']}",
    )


def frame_row(table: np.ndarray, frame: int, folder: Path) -> np.ndarray:
    """The row of a frame in a drive's poses or times.

    Raises:
        UserError: there are fewer.
    """
    if frame >= len(table):
        raise UserError(
            f"the file has {len(table)} lines, too few for frame {frame}",
            where=str(folder / "poses.txt"),
            cure=f"Unpack it again from {ARCHIVES['poses.txt']}",
        )
    return table[frame]


def _calib_lines(path: Path) -> dict[str, str]:
    """The values of ``calib.txt`` by key, as text."""
    lines: dict[str, str] = {}
    for line in read_text(path, cure=_cure("calib.txt")).splitlines():
        key, colon, values = line.partition(":")
        key = key.strip()
        if key in lines:
            raise UserError(
                f"the line '{key}:' is written twice", where=str(path), cure=_cure("calib.txt")
            )
        if colon:
            lines[key] = values
    return lines


def _matrix(path: Path, lines: dict[str, str], key: str) -> np.ndarray:
    """F64 [3, 4]."""
    if key not in lines:
        raise UserError(
            f"the line '{key}:' is missing",
            where=str(path),
            cure="The right calib.txt is the one in data_odometry_calib.zip (it has P0 to P3 and Tr); "
            "other KITTI archives hold files of the same name without it",
        )
    words = lines[key].split()
    try:
        values = np.array(words, np.float64)
    except ValueError as error:
        raise UserError(
            f"the line '{key}' holds something else than numbers ({error})", where=str(path)
        ) from error
    if values.size != 12 or not np.isfinite(values).all():
        raise UserError(
            f"the line '{key}' holds {values.size} numbers; expected 12, all finite",
            where=str(path),
        )
    return values.reshape(3, 4)


def _p2(path: Path, lines: dict[str, str]) -> np.ndarray:
    p2 = _matrix(path, lines, "P2")
    fault = camera_fault(p2)
    if fault is not None:
        raise UserError(
            f"the line 'P2' is no camera: it {fault}", where=str(path), cure=_cure("calib.txt")
        )
    return p2


def _tr(path: Path, lines: dict[str, str]) -> np.ndarray:
    tr = _matrix(path, lines, "Tr")
    matrix = rigid(tr[:, :3], tr[:, 3])
    check_poses(matrix[None], path, "the line 'Tr'", _cure("calib.txt"), farthest=_FARTHEST)
    return matrix


def _cure(name: str) -> str:
    return f"It comes from {ARCHIVES[name]}"

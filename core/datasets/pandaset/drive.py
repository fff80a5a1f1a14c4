"""PandaSet's JSON files of a sequence: where its sensors were, when, and what its cameras are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.datasets.pandaset.cuboids import RAW_NAMES
from core.datasets.poses import check_poses, check_quaternions, check_times
from core.decode import read_json
from core.errors import UserError
from core.geometry import camera_fault, rigid
from core.io import read_once

__all__ = ["SOURCE", "check_classes", "pose_of", "read_intrinsic", "read_poses", "read_times"]

SOURCE = "It comes from the PandaSet archive; unpack it again"
_SENSORS = 512  # of all sequences, kept per process: 80 poses each


@dataclass(frozen=True)
class _Position:
    """Metres in the sequence's world."""

    x: float
    y: float
    z: float


@dataclass(frozen=True)
class _Heading:
    """A quaternion."""

    w: float
    x: float
    y: float
    z: float


@dataclass(frozen=True)
class _Pose:
    position: _Position
    heading: _Heading


@dataclass(frozen=True)
class _Intrinsics:
    """Pixels."""

    fx: float
    fy: float
    cx: float
    cy: float


@read_once("poses.json", entries=_SENSORS)
def read_poses(folder: Path) -> np.ndarray:
    """Read ``poses.json`` of a sensor's folder: world_from_sensor f64 [F, 4, 4].

    Raises:
        UserError: the file is missing or no list of poses, or one is no rigid transform.
    """
    path = folder / "poses.json"
    poses = read_json(path, list[_Pose], cure=SOURCE)
    headings = [[p.heading.w, p.heading.x, p.heading.y, p.heading.z] for p in poses]
    quaternions = np.array(headings, np.float64).reshape(-1, 4)
    check_quaternions(quaternions, path, SOURCE)
    matrices = np.empty((len(poses), 4, 4))
    for row, pose in enumerate(poses):
        place = np.array([pose.position.x, pose.position.y, pose.position.z], np.float64)
        matrices[row] = rigid(quaternions[row], place)
    check_poses(matrices, path, "entry {}", SOURCE)
    return matrices


@read_once("poses.json", "timestamps.json", entries=_SENSORS)
def read_times(folder: Path) -> np.ndarray:
    """Read ``timestamps.json`` of a sensor's folder: f64 [F] s, one per pose.

    Raises:
        UserError: the file is missing, no list of rising times, or of another length than ``poses.json``.
    """
    path = folder / "timestamps.json"
    times = np.array(read_json(path, list[float], cure=SOURCE), np.float64)
    count = len(read_poses(folder))
    if len(times) != count:
        raise UserError(
            f"expected {count} numbers, one per pose; it has {len(times)}",
            where=str(path),
            cure=SOURCE,
        )
    check_times(times, path, "entry {}", SOURCE)
    return times


def pose_of(folder: Path, frame: int, like: Path | None = None) -> np.ndarray:
    """world_from_sensor f64 [4, 4] at a frame.

    Args:
        like: folder of another sensor of the sequence, which has as many poses.

    Raises:
        UserError: see :func:`read_poses`; there are fewer poses than frames, or another number than in ``like``.
    """
    poses = read_poses(folder)
    if like is not None and len(poses) != len(read_poses(like)):
        raise UserError(
            f"the file has {len(poses)} poses, and {like.name}/poses.json has {len(read_poses(like))}",
            where=str(folder / "poses.json"),
            cure=SOURCE,
        )
    if frame >= len(poses):
        raise UserError(
            f"the file has {len(poses)} entries, too few for frame {frame}",
            where=str(folder / "poses.json"),
            cure=SOURCE,
        )
    return poses[frame]


@read_once(entries=_SENSORS)
def read_intrinsic(path: Path) -> np.ndarray:
    """Read ``intrinsics.json`` of a camera: f64 [3, 3] px.

    Raises:
        UserError: the file is missing or has no fx, fy, cx and cy of a camera.
    """
    values = read_json(path, _Intrinsics, cure=SOURCE)
    matrix = np.array([[values.fx, 0, values.cx], [0, values.fy, values.cy], [0, 0, 1]], np.float64)
    fault = camera_fault(matrix)
    if fault is not None:
        raise UserError(f"this is no camera: it {fault}", where=str(path), cure=SOURCE)
    return matrix


@read_once("classes.json", entries=_SENSORS)
def check_classes(folder: Path) -> None:
    """Compare a sequence's ``classes.json``, where it has one, with the names of the classes that are known here.

    Args:
        folder: of the files of classes.

    Raises:
        UserError: it is damaged, or other names have the numbers.
    """
    path = folder / "classes.json"
    if not path.is_file():
        return
    names = read_json(path, dict[str, str], cure=SOURCE)
    known = {str(number): name for number, name in enumerate(RAW_NAMES, 1)}
    for number in {**known, **names}:
        if names.get(number) != known.get(number):
            raise UserError(
                f"class {number[:20]} is {names.get(number)!r:.40}, and {known.get(number)!r} is expected",
                where=str(path),
                cure=SOURCE,
            )

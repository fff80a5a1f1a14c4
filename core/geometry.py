"""Rigid transforms, pinhole projection and spherical coordinates.

Matrices are f64 [4, 4] and read right to left: ``target_from_source @ point``. Quaternions are (w, x, y, z), as in
nuScenes' tables. Global coordinates reach kilometres, so chains are composed in float64 and only results are float32.
"""

from __future__ import annotations

from functools import reduce

import numpy as np

__all__ = [
    "FARTHEST",
    "camera_fault",
    "chain",
    "first_fault",
    "invert",
    "projection",
    "quaternion_matrix",
    "rigid",
    "spherical",
    "transform",
]

FARTHEST = 1e8  # m; no place on Earth is farther from any origin that maps have
# Files print few digits: three decimals of a rotation leave R R^T this far from the identity, one wrong digit more.
_NOT_A_ROTATION = 5e-3


def first_fault(matrices: np.ndarray, farthest: float = FARTHEST) -> tuple[int, str] | None:
    """Find the first matrix that is no rigid transform.

    Args:
        matrices: f64 [F, 4, 4]. farthest: m, the longest translation.

    Returns:
        its row and what is wrong with it; None where all are rigid: finite, with a rotation (``R R^T`` is the identity,
        the determinant is positive), a short enough translation, and the last row 0 0 0 1.
    """
    rotation, translation = matrices[:, :3, :3], matrices[:, :3, 3]
    with np.errstate(all="ignore"):
        product = rotation @ rotation.transpose(0, 2, 1)
        checks = {
            "holds NaN or infinite values": np.isfinite(matrices).all((1, 2)),
            "has another last row than 0 0 0 1": (matrices[:, 3] == (0, 0, 0, 1)).all(1),
            "is no rotation: R R^T is not the identity": (
                np.abs(product - np.eye(3)).max((1, 2)) <= _NOT_A_ROTATION
            ),
            "is no rotation but a mirror image: its determinant is -1": np.linalg.det(rotation) > 0,
            f"lies more than {farthest:g} m away": np.abs(translation).max(1) <= farthest,
        }
    sound = np.stack(list(checks.values()))
    if sound.all():
        return None
    row = int(np.argmin(sound.all(0)))
    return row, list(checks)[int(np.argmin(sound[:, row]))]


def camera_fault(matrix: np.ndarray) -> str | None:
    """Say why a matrix f64 [3, 4] is no pinhole camera, intrinsics times the upper rows of a rigid transform.

    Returns:
        None where it is one: finite, the third row of x, y, z has length 1 (depths are metres), nothing is mirrored.
    """
    if not np.isfinite(matrix).all():
        return "holds NaN or infinite values"
    length = float(np.linalg.norm(matrix[2, :3]))
    if not abs(length - 1) <= _NOT_A_ROTATION:
        return (
            f"has a third row of length {length:.4g} over x, y, z, so that its depths are no metres"
        )
    if not np.linalg.det(matrix[:, :3]) > 0:
        return "mirrors the scene, or flattens it (its determinant must be positive)"
    return None


def quaternion_matrix(quaternion: np.ndarray) -> np.ndarray:
    """Turn a quaternion into a rotation.

    Args:
        quaternion: [..., 4] as (w, x, y, z), any positive length.

    Returns:
        f64 [..., 3, 3].
    """
    q = np.asarray(quaternion, np.float64)
    unit = q / np.linalg.norm(q, axis=-1, keepdims=True)
    w, x, y, z = np.moveaxis(unit, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def rigid(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Join a rotation ([3, 3], or a quaternion [4]) and a translation [3] m into a matrix f64 [4, 4]."""
    rotation = np.asarray(rotation, np.float64)
    if rotation.shape == (4,):
        rotation = quaternion_matrix(rotation)
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = translation
    return matrix


def invert(matrix: np.ndarray) -> np.ndarray:
    """Invert a rigid transform f64 [4, 4]; exact for rotations orthonormal to rounding.

    Calibration files print few digits, so their rotations are orthonormal only to about 1e-6; the general inverse keeps
    ``invert(T) @ T`` the identity for those as well.
    """
    inverse = np.linalg.inv(np.asarray(matrix, np.float64))
    inverse[3] = (0, 0, 0, 1)
    return inverse


def chain(*matrices: np.ndarray) -> np.ndarray:
    """Multiply transforms (f64) as written: ``chain(c_from_b, b_from_a)`` is ``c_from_a``."""
    wide = [np.asarray(matrix, np.float64) for matrix in matrices]
    return reduce(np.matmul, wide)


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Move points [N, 3] m by a [4, 4] transform; computed in float64, returned as f32 [N, 3]."""
    matrix = np.asarray(matrix, np.float64)
    rotation, translation = matrix[:3, :3], matrix[:3, 3]
    moved = points.astype(np.float64) @ rotation.T + translation
    return moved.astype(np.float32)


def projection(intrinsic: np.ndarray, camera_from_lidar: np.ndarray) -> np.ndarray:
    """Compose a pinhole camera with the pose of the LiDAR.

    Args:
        intrinsic: [3, 3] px, or a rectified camera's [3, 4] (KITTI's P2).
        camera_from_lidar: [4, 4].

    Returns:
        f64 [3, 4] taking homogeneous LiDAR points to (u*depth, v*depth, depth).
    """
    intrinsic = np.asarray(intrinsic, np.float64)
    return intrinsic @ np.asarray(camera_from_lidar, np.float64)[: intrinsic.shape[1]]


def spherical(points: np.ndarray) -> np.ndarray:
    """Compute the spherical coordinates of points [N, 3], in their own dtype.

    Returns:
        [N, 3]: theta = atan2(y, x) + pi in [0, 2 pi] rad; beta = angle from +z in [0, pi] rad; r m
        (SphereFormer, Lai et al. 2023, sec. 3.1, where the angles are in degrees).
    """
    x, y, z = points.T
    horizontal = np.hypot(x, y)
    theta = np.arctan2(y, x) + np.asarray(np.pi, points.dtype)
    beta = np.arctan2(horizontal, z)
    radius = np.hypot(horizontal, z)
    return np.stack([theta, beta, radius], 1)

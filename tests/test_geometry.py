"""Rigid transforms and projection against hand arithmetic and pyquaternion."""

from __future__ import annotations

import numpy as np
import pytest

from core.contracts import Camera
from core.geometry import chain, invert, projection, quaternion_matrix, rigid, spherical, transform

HALF = np.sqrt(0.5)


def test_quarter_turn_about_z_takes_x_to_y():
    turn = quaternion_matrix(np.array([HALF, 0, 0, HALF]))
    np.testing.assert_allclose(turn @ [1, 0, 0], [0, 1, 0], atol=1e-15)


def test_quaternions_agree_with_pyquaternion():
    pyquaternion = pytest.importorskip("pyquaternion")
    quaternions = np.random.default_rng(0).normal(size=(5, 2, 4))
    matrices = quaternion_matrix(quaternions)
    assert matrices.shape == (5, 2, 3, 3)
    for index in np.ndindex(5, 2):
        expected = pyquaternion.Quaternion(quaternions[index]).rotation_matrix
        np.testing.assert_allclose(matrices[index], expected, atol=1e-14)


def test_rigid_takes_a_matrix_or_a_quaternion():
    quaternion, shift = np.array([0.5, 0.5, 0.5, 0.5]), np.array([1.0, 2.0, 3.0])
    matrix = rigid(quaternion, shift)
    np.testing.assert_allclose(
        matrix, [[0, 0, 1, 1], [1, 0, 0, 2], [0, 1, 0, 3], [0, 0, 0, 1]], atol=1e-15
    )
    np.testing.assert_array_equal(rigid(quaternion_matrix(quaternion), shift), matrix)


def test_inverse_undoes_also_rotations_printed_with_few_digits():
    matrix = rigid(
        np.round(quaternion_matrix(np.array([0.9, 0.1, -0.3, 0.2])), 4),
        np.array([400.0, 1200.0, 2.0]),
    )
    np.testing.assert_allclose(invert(matrix) @ matrix, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(invert(matrix)[3], [0, 0, 0, 1])


def test_chains_read_right_to_left():
    shift = rigid(np.eye(3), np.array([1.0, 0, 0]))
    turn = rigid(np.array([HALF, 0, 0, HALF]), np.zeros(3))
    np.testing.assert_allclose(
        transform(chain(shift, turn), np.array([[1.0, 0, 0]])), [[1, 1, 0]], atol=1e-7
    )
    np.testing.assert_allclose(
        transform(chain(turn, shift), np.array([[1.0, 0, 0]])), [[0, 2, 0]], atol=1e-7
    )


def test_transform_keeps_millimetres_at_kilometres():
    there = rigid(np.eye(3), np.array([4.0e6, 1.0e6, 0.0]))
    points = np.array([[1.001, 2.002, 3.003]], np.float32)
    moved = transform(chain(invert(there), there), points)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, points, atol=1e-6)


def test_projection_of_a_point_by_hand():
    # Camera 1 m left of the LiDAR, looking along LiDAR x: camera z = x, camera x = -y + 1, camera y = -z.
    intrinsic = np.array([[100.0, 0, 50], [0, 200, 40], [0, 0, 1]])
    camera_from_lidar = rigid(np.array([[0, -1, 0], [0, 0, -1], [1, 0, 0]]), np.array([1.0, 0, 0]))
    camera = Camera(
        "front", (101, 81), projection(intrinsic, camera_from_lidar), lambda: np.zeros((81, 101, 3))
    )
    points = np.array([[10.0, 0, 1], [10, 10, 0], [0.5, 1, 0], [-10, 1, 0]], np.float32)
    uv, depth, visible = camera.project(points)
    np.testing.assert_allclose(uv[0], [100 * 1 / 10 + 50, 200 * -1 / 10 + 40])
    np.testing.assert_allclose(depth, [10, 10, 0.5, -10])
    # In view; left of the image (u = 50 - 90); nearer than 1 m; behind.
    assert visible.tolist() == [True, False, False, False]


def test_projection_takes_a_rectified_three_by_four():
    p2 = np.array([[700.0, 0, 600, 45], [0, 700, 180, 0.2], [0, 0, 1, 0.003]])
    point = np.array([1.0, 2.0, 8.0, 1.0])
    np.testing.assert_allclose(projection(p2, np.eye(4)) @ point, p2 @ point)


def test_spherical_axes():
    points = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 3], [-1, -1e-9, 0], [0, 0, -1]], np.float64)
    theta, beta, r = spherical(points).T
    np.testing.assert_allclose(theta[[0, 1, 3]], [np.pi, 1.5 * np.pi, 0], atol=1e-8)
    np.testing.assert_allclose(beta, [np.pi / 2, np.pi / 2, 0, np.pi / 2, np.pi], atol=1e-8)
    np.testing.assert_allclose(r, [1, 2, 3, 1, 1])
    assert spherical(points.astype(np.float32)).dtype == np.float32

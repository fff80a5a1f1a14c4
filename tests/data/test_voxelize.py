"""Voxels by hand arithmetic, and against a dictionary-based reference on random points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.data.mapping import majority_labels
from core.data.partitions import voxelize
from core.errors import UserError
from core.sparse import MAX_SPAN, MapCache


def test_golden_half_to_even_and_negative():
    # Voxels of 0.5 m: x / 0.5 = -3, -0.5, 0.5, 1.5, 2.5 -> -3, 0, 0, 2, 2 (half to even), minus the smallest, -3.
    x = np.array([-1.5, -0.25, 0.25, 0.75, 1.25], np.float32)
    points = np.stack([x, np.zeros(5), np.full(5, 2.0)], axis=1).astype(np.float32)
    coords, first, inverse = voxelize(points, 0.5)
    assert coords.tolist() == [[0, 0, 0], [3, 0, 0], [5, 0, 0]]
    assert first.tolist() == [0, 1, 3]
    assert inverse.tolist() == [0, 1, 1, 2, 2]
    assert (coords.dtype, first.dtype, inverse.dtype) == (np.int32, np.int64, np.int64)


def test_division_in_float32():
    # 0.025 is 0.02500000037 in float32: 0.5000000075 voxels in float64 (rounds to 1), exactly 0.5 in float32 (to 0).
    coords, _, _ = voxelize(np.array([[0, 0, 0], [0.025, 0, 0]], np.float32), 0.05)
    assert coords.tolist() == [[0, 0, 0]]


def test_first_point_represents_coincident_points():
    points = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1], [1.01, 1, 1]], np.float32)
    coords, first, inverse = voxelize(points, 0.1)
    assert coords.tolist() == [[10, 10, 10], [0, 0, 0]]
    assert first.tolist() == [0, 1]
    assert inverse.tolist() == [0, 1, 0, 0]


def test_matches_reference_on_random_points():
    points = np.random.default_rng(0).normal(0, 3, (5000, 3)).astype(np.float32)
    coords, first, inverse = voxelize(points, 0.3)
    rounded = np.rint(points / np.float32(0.3)).astype(int)
    seen: dict[tuple[int, ...], int] = {}
    expected = [
        seen.setdefault(tuple(row), len(seen)) for row in (rounded - rounded.min(0)).tolist()
    ]
    assert inverse.tolist() == expected
    assert [tuple(row) for row in coords.tolist()] == list(seen)
    np.testing.assert_array_equal(inverse[first], np.arange(len(first)))
    assert np.all(np.diff(first) > 0)


@pytest.mark.parametrize(("points", "voxels"), [(np.zeros((0, 3)), 0), ([[7.0, -8.0, 9.0]], 1)])
def test_empty_and_single(points, voxels):
    coords, first, inverse = voxelize(np.asarray(points, np.float32), 0.05)
    assert coords.tolist() == [[0, 0, 0]] * voxels
    assert first.tolist() == inverse.tolist() == [0] * voxels


def test_two_points_a_whole_grid_apart():
    last = MAX_SPAN - 3
    points = np.array([[0, 0, 0], [last, last, last], [0, 0, 1]], np.float32)
    coords, _, inverse = voxelize(points, 1.0)
    assert coords.tolist() == [[0, 0, 0], [last] * 3, [0, 0, 1]]
    assert inverse.tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [1e9, np.inf, -np.inf, np.nan, 2.0**22, MAX_SPAN, -MAX_SPAN])
def test_too_far_names_the_axis(value):
    points = np.zeros((3, 3), np.float32)
    points[1, 1] = value
    with pytest.raises(UserError, match="along y"):
        voxelize(points, 1.0)


def test_far_from_the_origin_overflows_int32():
    with pytest.raises(UserError, match="too far"):
        voxelize(np.full((2, 3), 1e9, np.float32), 0.1)


def test_far_from_the_origin_float32_is_too_coarse():
    # Two points a voxel apart are 0, 256, 384 voxels apart in float32 where x = 1e7 m and a voxel 5 mm.
    with pytest.raises(UserError, match="at most 4194304 voxels from the origin"):
        voxelize(np.array([[1e7, 0, 0], [1e7 + 1, 0, 0]], np.float32), 0.005)
    near = np.array([[20000, 0, 0], [20001, 0, 0], [20002, 0, 0]], np.float32)
    assert voxelize(near, 0.005)[0][:, 0].tolist() == [0, 200, 400]


SIZES = (0.05, 0.1, 0.2, 1 / 3, 1.0)


@pytest.mark.parametrize("size", SIZES)
def test_what_voxels_take_a_sparse_tensor_takes(size):
    """At the limit, for one scan and for a batch of scans on either side of the origin."""
    rng = np.random.default_rng(0)
    for reach in np.linspace(MAX_SPAN - 6, MAX_SPAN + 2, 17) * size:
        points = np.zeros((3, 3), np.float32)
        points[0], points[1] = rng.uniform(-reach, 0, 3), 0.3 * size
        points[1] += points[0] + np.float32(reach)
        for shift in (0.0, -reach / 2):
            batch = []
            try:
                for sign in (1, -1):
                    batch.append(voxelize(sign * points + np.float32(shift), size)[0])
            except UserError:
                continue
            rows = [np.insert(coords, 0, i, axis=1) for i, coords in enumerate(batch)]
            coords = torch.from_numpy(np.concatenate(rows))
            assert int(coords.min()) >= 0 and int(coords.max()) < MAX_SPAN
            assert MapCache(coords).grid is not None


def test_input_is_left_alone():
    points = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    copy = points.copy()
    voxelize(points, 0.1)
    np.testing.assert_array_equal(points, copy)


def test_majority_labels_by_hand():
    #  voxel 0: 3 3 2 -> 3; voxel 1: 0 0 4 -> 4 (ignore does not vote); voxel 2: 2 1 -> 1 (tie); voxel 3: 0 -> 0
    labels = np.array([3, 3, 2, 0, 0, 4, 2, 1, 0, 4])
    voxel = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, -1])
    assert majority_labels(
        torch.from_numpy(labels), torch.from_numpy(voxel), 4, 5, ignore_votes=False
    ).tolist() == [3, 4, 1, 0]

"""Batches joined by hand, and the links between points, voxels, pixels and a second view."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_fakes import FakeDataset, forward_camera, make_scan

from core.data.collate import collate
from core.data.config import AugmentConfig, DataConfig
from core.data.mapping import gather_rows, points_to_voxels, teacher_voxels, voxels_to_points
from core.data.sample import make_sample
from core.errors import UserError

PLAIN = DataConfig(voxel_size=1.0, augment=None)


def ranged(high: float) -> DataConfig:
    return PLAIN.model_copy(update={"point_range": (-1, -1, -1, high, 9, 9)})


def test_collate_offsets():
    first = make_sample(
        make_scan([[0, 0, 0], [9, 0, 0], [2, 0, 0], [2, 0, 0]], labels=[1, 2, 3, 4]), 5, ranged(5)
    )
    second = make_sample(make_scan([[1, 1, 1], [0, 0, 0]], labels=[5, 6], token="b"), 6, PLAIN)
    batch = collate([first, second])
    assert batch.coords.tolist() == [[0, 0, 0, 0], [0, 2, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert batch.coords.dtype == torch.int32
    assert batch.point_to_voxel.tolist() == [0, -1, 1, 1, 2, 3]
    assert batch.voxel_to_point.tolist() == [0, 2, 4, 5]
    assert batch.labels.tolist() == [1, 3, 5, 6]
    assert batch.point_labels.tolist() == [1, 2, 3, 4, 5, 6]
    assert batch.voxel_offsets.tolist() == [0, 2, 4]
    assert batch.point_offsets.tolist() == [0, 4, 6]
    assert batch.feats.shape == (4, 4)
    assert (batch.tokens, batch.indices, batch.padded) == (("scan", "b"), (5, 6), (False, False))
    assert len(batch) == 2
    assert batch.images is batch.pixels is batch.visible is None


def test_collate_images():
    camera = forward_camera((21, 11), colour=255)
    config = DataConfig(images=True, voxel_size=1.0)
    samples = [
        make_sample(make_scan(p, cameras=(camera, camera)), 0, config)
        for p in ([[4, 0, 0]], [[4, 2, 0], [-4, 0, 0]])
    ]
    batch = collate(samples)
    assert batch.images.shape == (2, 2, 3, 11, 21)
    assert batch.visible.tolist() == [[True, True, False]] * 2
    np.testing.assert_allclose(batch.pixels[1], [[0, 0], [-0.5, 0], [0, 0]], atol=1e-6)


def test_collate_refuses_images_that_differ():
    config = DataConfig(images=True)
    small = make_sample(make_scan([[4, 0, 0]], cameras=(forward_camera((21, 11)),)), 0, config)
    large = make_sample(make_scan([[4, 0, 0]], cameras=(forward_camera((31, 11)),)), 0, config)
    without = make_sample(make_scan([[4, 0, 0]]), 0, DataConfig())
    for other in (large, without):
        with pytest.raises(UserError, match="differ in number or size"):
            collate([small, other])


def test_voxels_to_points_and_back():
    sample = make_sample(make_scan([[0, 0, 0], [9, 0, 0], [2, 0, 0], [2, 0, 0]]), 0, ranged(5))
    batch = collate([sample, sample])
    values = torch.tensor([[1.0], [2.0], [3.0], [4.0]], requires_grad=True)
    points = voxels_to_points(values, batch, fill=-7)
    assert points.squeeze(1).tolist() == [1, -7, 2, 2, 3, -7, 4, 4]
    assert points_to_voxels(points, batch).tolist() == values.tolist()
    points.sum().backward()
    assert values.grad.squeeze(1).tolist() == [1, 2, 1, 2]


def test_gather_rows_of_any_shape():
    assert gather_rows(torch.tensor([3, 4]), torch.tensor([-1, 1, 0]), -9).tolist() == [-9, 4, 3]
    assert gather_rows(torch.ones(2, 2, 3), torch.tensor([-1]), 5).tolist() == [[[5] * 3] * 2]
    assert gather_rows(torch.ones(0, 2), torch.tensor([-1, -1])).tolist() == [[0, 0]] * 2


def test_pixels_follow_voxels():
    # The label is the cell of a chessboard the point is seen in; read back through pixels it must be the voxel's.
    rng = np.random.default_rng(0)
    points = np.column_stack(
        [np.full(300, 5.0), rng.uniform(-4.9, 4.9, 300), rng.uniform(-2.4, 2.4, 300)]
    )
    camera = forward_camera()
    uv, _, _ = camera.project(points.astype(np.float32))
    labels = np.rint(uv[:, 0]).astype(int) + 1
    scan = make_scan(points, labels=labels, cameras=(camera,))
    config = DataConfig(voxel_size=0.3, images=True)
    sample = make_sample(scan, 0, config, training=True, rng=rng)
    batch = collate([sample, sample])
    columns = torch.round((batch.pixels[0, :, 0] + 1) / 2 * 20).long() + 1
    assert batch.visible.all()
    assert (columns == batch.labels).float().mean() > 0.99  # rounding at the border of two cells


def test_teacher_map_with_coincident_points():
    # Scan: points A A B C; the sweep adds D at B's place. Student voxels: {A A} {B} {C}.
    points = [[0, 0, 0], [0, 0, 0], [3, 0, 0], [6, 0, 0], [3, 0, 0]]
    scan = make_scan(points, time_lag=[0, 0, 0, 0, 0.1])
    student = make_sample(scan, 0, PLAIN.model_copy(update={"sweeps": False}))
    # The teacher's voxels of 4 m: {A A}, {B C D at 0.75 -> 1, 1.5 -> 2}: rint(3/4) = 1, rint(6/4) = 2.
    teacher = make_sample(scan, 0, PLAIN.model_copy(update={"voxel_size": 4.0}))
    assert teacher.point_to_voxel.tolist() == [0, 0, 1, 2, 1]
    batch_s, batch_t = collate([student, student]), collate([teacher, teacher])
    assert teacher_voxels(batch_s, batch_t).tolist() == [0, 1, 2, 3, 4, 5]
    coarse = make_sample(scan, 0, PLAIN.model_copy(update={"voxel_size": 16.0}))
    assert teacher_voxels(batch_s, collate([coarse, teacher])).tolist() == [0, 0, 0, 1, 2, 3]


def test_teacher_map_of_dropped_points_and_student_sweeps():
    scan = make_scan([[0, 0, 0], [8, 0, 0], [3, 0, 0]], time_lag=[0, 0, 0.1])
    student, teacher = (
        collate([make_sample(scan, 0, PLAIN)]),
        collate([make_sample(scan, 0, ranged(5))]),
    )
    # Student voxels: point 0; point 1, outside the teacher's range; point 2, another sweep's.
    assert teacher_voxels(student, teacher).tolist() == [0, -1, -1]


def test_teacher_map_finds_the_same_point_under_independent_augmentation():
    dataset = FakeDataset(sweeps=30)
    config = DataConfig(voxel_size=0.4, augment=AugmentConfig(dropout=0.3))
    views = ([], [])
    for index in (2, 7):
        for view, (samples, sweeps) in enumerate(zip(views, (False, True))):
            settings, rng = (
                config.model_copy(update={"sweeps": sweeps}),
                np.random.default_rng([index, view]),
            )
            samples.append(
                make_sample(dataset.load(index), index, settings, training=True, rng=rng)
            )
    student, teacher = map(collate, views)
    rows = teacher_voxels(student, teacher)
    assert rows.shape == (len(student.coords),)
    keyframe_points = teacher.keyframe.nonzero().squeeze(1)
    expected = teacher.point_to_voxel[
        keyframe_points[student.voxel_to_point]
    ]  # the student has keyframe points alone
    assert rows.tolist() == expected.tolist()
    assert (rows >= 0).any()
    assert (rows < 0).any()


def test_teacher_map_refuses_other_scans():
    one, two = (
        collate([make_sample(make_scan(np.zeros((n, 3)), token=t), 0, PLAIN)])
        for n, t in ((2, "a"), (3, "b"))
    )
    with pytest.raises(UserError, match="different scans"):
        teacher_voxels(one, two)
    longer = collate([make_sample(make_scan(np.zeros((3, 3)), token="a"), 0, PLAIN)])
    with pytest.raises(UserError, match="2 keyframe points and the teacher's 3"):
        teacher_voxels(one, longer)

"""From scan to sample: voxels, labels, range, crop, pixels, images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from data_fakes import FakeDataset, forward_camera, make_scan

from core.data.config import AugmentConfig, DataConfig
from core.data.sample import make_sample, project_points
from core.errors import UserError

PLAIN = DataConfig(voxel_size=1.0, augment=None)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_golden_sample():
    scan = make_scan([[0, 3, 4], [2, 0, 0], [0.2, 3, 4]], labels=[5, 6, 7])
    sample = make_sample(scan, 9, DataConfig(voxel_size=1.0, intensity_divisor=2.0))
    assert (sample.token, sample.index, sample.padded, sample.skipped) == ("scan", 9, False, ())
    assert sample.coords.tolist() == [[0, 3, 4], [2, 0, 0]]
    assert sample.feats.tolist() == [[0, 3, 4, 0], [2, 0, 0, 0.5]]
    assert sample.labels.tolist() == [5, 6]
    assert sample.point_labels.tolist() == [5, 6, 7]
    assert sample.point_to_voxel.tolist() == [0, 1, 0]
    assert sample.voxel_to_point.tolist() == [0, 1]
    assert sample.distance[:2].tolist() == [5, 2]
    assert sample.images is sample.pixels is sample.visible is None
    kinds = {
        name: getattr(sample, name).dtype
        for name in ("coords", "feats", "labels", "point_labels", "distance")
    }
    assert kinds == {
        "coords": "i4",
        "feats": "f4",
        "labels": "i8",
        "point_labels": "i8",
        "distance": "f4",
    }


def test_an_offset_comes_after_the_divisor():
    data = DataConfig(
        voxel_size=1.0, features=("intensity",), intensity_divisor=2.0, intensity_offset=1.0
    )
    sample = make_sample(make_scan([[0, 0, 0], [2, 0, 0], [4, 0, 0]]), 0, data)  # 0, 1 and 2
    assert sample.feats.tolist() == [[1.0], [1.5], [2.0]] and sample.feats.dtype == np.float32


def test_majority_vote():
    scan = make_scan(np.zeros((3, 3)), labels=[1, 2, 2])
    assert make_sample(scan, 0, PLAIN).labels.tolist() == [1]
    assert make_sample(
        scan, 0, PLAIN.model_copy(update={"label_vote": "majority"})
    ).labels.tolist() == [2]


def test_no_labels_are_ignore():
    sample = make_sample(make_scan([[0, 0, 0]]), 0, PLAIN)
    assert sample.labels.tolist() == sample.point_labels.tolist() == [0]


@pytest.mark.parametrize("vote", ["first", "majority"])
def test_labels_of_sweeps_reach_the_loss(vote):
    # Voxel 0 holds a keyframe point and two of a sweep, voxel 1 a sweep's alone; sweeps carry labels (SemanticKITTI's
    # dataset.multisweeps.labelled). Readers give 0 to the points of sweeps that have none.
    scan = make_scan(
        [[0, 0, 0], [0, 0, 0], [0, 0, 0], [5, 0, 0]],
        labels=[1, 2, 2, 3],
        time_lag=[0, 0.1, 0.1, 0.1],
    )
    sample = make_sample(scan, 0, PLAIN.model_copy(update={"label_vote": vote}))
    assert sample.labels.tolist() == ([1, 3] if vote == "first" else [2, 3])
    unlabelled = scan.having(label=np.array([1, 0, 0, 0], np.uint8))
    config = PLAIN.model_copy(update={"label_vote": vote})
    assert make_sample(unlabelled, 0, config).labels.tolist() == [1, 0]
    assert sample.point_labels.tolist() == [1, 2, 2, 3]
    assert sample.keyframe.tolist() == [True, False, False, False]


def test_view_without_sweeps():
    scan = make_scan([[0, 0, 0], [5, 0, 0], [1, 0, 0]], labels=[1, 2, 3], time_lag=[0, 0.1, 0])
    sample = make_sample(scan, 0, PLAIN.model_copy(update={"sweeps": False}))
    assert sample.point_labels.tolist() == [1, 3]
    assert sample.feats[:, 0].tolist() == [0, 1]
    assert sample.feats[:, 3].tolist() == [0, 2]


def test_point_range_leaves_points_in_no_voxel():
    scan = make_scan([[9, 0, 0], [0, 0, 0], [1, 0, 0]], labels=[1, 2, 3])
    config = PLAIN.model_copy(update={"point_range": (-1, -1, -1, 2, 1, 1)})
    sample = make_sample(scan, 0, config)
    assert sample.point_to_voxel.tolist() == [-1, 0, 1]
    assert sample.voxel_to_point.tolist() == [1, 2]
    assert sample.feats[:, 3].tolist() == [1, 2]
    assert sample.point_labels.tolist() == [1, 2, 3]  # outside points are still scored
    assert len(sample.distance) == 3


def test_point_range_is_that_of_the_recorded_points():
    turned = DataConfig(
        voxel_size=1.0,
        point_range=(-1, -1, -1, 5, 1, 1),
        augment=AugmentConfig(flip=False, rotate=(90, 90), scale=None, translate_std=None),
    )
    sample = make_sample(make_scan([[4, 0, 0], [-4, 0, 0]]), 0, turned, training=True, rng=rng())
    assert sample.point_to_voxel.tolist() == [0, -1]
    np.testing.assert_allclose(sample.feats[0, :3], [0, 4, 0], atol=1e-6)


def test_nothing_in_range_names_the_scan():
    config = PLAIN.model_copy(update={"point_range": (10, 10, 10, 20, 20, 20)})
    with pytest.raises(UserError, match=r"none of the 1 points of scan scan.*point_range"):
        make_sample(make_scan([[0, 0, 0]]), 0, config)


def test_stray_point_names_the_scan():
    with pytest.raises(UserError, match="scan scan: the points run from 0 to 1e"):
        make_sample(make_scan([[0, 0, 0], [1e9, 0, 0]]), 0, PLAIN)


def test_dropout_only_in_training():
    scan = FakeDataset().load(5)
    config = DataConfig(voxel_size=0.5, augment=AugmentConfig(dropout=0.9))
    assert (make_sample(scan, 0, config).point_to_voxel >= 0).all()
    sample = make_sample(scan, 0, config, training=True, rng=rng(3))
    dropped = sample.point_to_voxel < 0
    assert 0 < dropped.sum() < len(dropped)
    assert not dropped[sample.voxel_to_point].any()
    kept = np.flatnonzero(~dropped)
    np.testing.assert_array_equal(
        np.unique(sample.point_to_voxel[kept]), np.arange(len(sample.coords))
    )


def test_evaluation_is_not_augmented():
    scan = FakeDataset().load(5)
    sample = make_sample(scan, 0, DataConfig())
    np.testing.assert_array_equal(sample.feats[:, :3], scan.xyz[sample.voxel_to_point])
    moved = make_sample(scan, 0, DataConfig(), training=True, rng=rng())
    assert np.abs(moved.feats[:5, :3] - scan.xyz[:5]).max() > 0.01
    np.testing.assert_array_equal(moved.distance, sample.distance)


def test_crop_keeps_the_nearest_voxels():
    scan = make_scan([[x, 0, 0] for x in range(20)], labels=range(1, 21))
    sample = make_sample(
        scan, 0, PLAIN.model_copy(update={"max_voxels": 5}), training=True, rng=rng(1)
    )
    x = sample.feats[:, 0]
    assert np.ptp(x) == 4  # five neighbours on a line
    assert sample.coords.tolist() == [[i, 0, 0] for i in range(5)]
    assert sample.labels.tolist() == (x + 1).tolist()
    assert sample.point_to_voxel.tolist() == [
        int(i - x[0]) if x[0] <= i <= x[-1] else -1 for i in range(20)
    ]
    assert (
        len(make_sample(scan, 0, PLAIN.model_copy(update={"max_voxels": 5})).coords) == 20
    )  # evaluation


@pytest.mark.parametrize(
    ("y", "z", "pixel"), [(0, 0, (0, 0)), (0.98, 0.48, (-0.98, -0.96)), (-0.5, 0.25, (0.5, -0.5))]
)
def test_projection_is_normalised(y, z, pixel):
    # 21 x 11 px: u = 10 - 10 y, v = 5 - 10 z at 1 m (the camera wants more than 1 m: the ray is taken at 2 m).
    at = np.array([[2, 2 * y, 2 * z]], np.float32)
    pixels, visible, _ = project_points(at, forward_camera(), (21, 11))
    assert visible.tolist() == [True]
    np.testing.assert_allclose(pixels[0], pixel, atol=1e-6)


def test_projection_edges_and_depth():
    # Exactly on the outermost pixel centre, outside, behind, too near.
    points = np.array([[2, 2, 0], [2, 3, 0], [-2, 0, 0], [0.9, 0, 0]], np.float32)
    pixels, visible, areas = project_points(points, forward_camera(), (21, 11))
    assert visible.tolist() == [False] * 4
    assert (pixels == 0).all() and (areas == -1).all()


def at_pixels(*uv: tuple[float, float]) -> np.ndarray:
    """Points 2 m in front of the forward camera that fall there: u = 10 - 10 y, v = 5 - 10 z at 1 m."""
    u, v = np.array(uv).T
    return np.stack([np.full(len(u), 2.0), 2 * (10 - u) / 10, 2 * (5 - v) / 10], 1).astype(
        np.float32
    )


def test_areas_reach_to_the_images_border():
    """Strictly inside 0..W and 0..H, where interpolation ends at W - 1 and H - 1."""
    points = at_pixels(
        (0.3, 4), (20.7, 4), (20.99, 10.99), (21.3, 4), (-0.3, 4), (5, 10.5), (5, 11.2)
    )
    _, visible, areas = project_points(points, forward_camera(), (21, 11))
    nowhere = [-1, -1]
    assert areas.tolist() == [[0, 4], [20, 4], [20, 10], nowhere, nowhere, [5, 10], nowhere]
    assert visible.tolist() == [True, False, False, False, False, False, False]


def test_areas_of_a_resized_image_are_those_of_the_recorded_pixels():
    """floor(u) W' / W, as published; a pixel of the smaller image is made of W / W' recorded ones."""
    rng = np.random.default_rng(0)
    uv = rng.uniform((0.01, 0.01), (20.99, 10.99), (200, 2))
    for width, height in ((21, 11), (7, 5), (10, 6), (42, 22)):
        _, _, areas = project_points(at_pixels(*uv), forward_camera(), (width, height))
        expected = [[int(u) * width // 21, int(v) * height // 11] for u, v in uv]
        assert areas.tolist() == expected


def test_pasted_points_fall_on_no_pixel():
    scan = make_scan([[4, 1, 0], [4, -1, 0.5]], cameras=(forward_camera(),))
    scan = scan.having(pasted=np.array([True, False]))
    cameras = make_sample(scan, 0, DataConfig(images=True)).cameras
    assert cameras.areas[0, :, 0].tolist() == [-1, 12]
    assert cameras.visible.tolist() == [[False, True]]


def test_pixels_are_those_of_the_recorded_points():
    scan = make_scan([[4, 1, 0], [4, -1, 0.5], [-4, 0, 0]], cameras=(forward_camera(),))
    still = make_sample(scan, 0, DataConfig(images=True))
    moved = make_sample(scan, 0, DataConfig(images=True), training=True, rng=rng())
    np.testing.assert_array_equal(still.pixels, moved.pixels)
    np.testing.assert_array_equal(still.visible, [[True, True, False]])
    np.testing.assert_allclose(still.pixels[0, :2], [[-0.25, 0], [0.25, -0.25]], atol=1e-6)
    assert not np.allclose(still.feats, moved.feats)


def test_images_resized_and_scaled():
    cameras = (forward_camera(colour=51), forward_camera(colour=255))
    scan = make_scan([[4, 0, 0]], cameras=cameras)
    sample = make_sample(scan, 0, DataConfig(images=True, image_size=(7, 5)))
    assert sample.images.shape == (2, 3, 5, 7)
    assert sample.images.dtype == np.float32
    np.testing.assert_allclose(sample.images[:, 0, 0, 0], [0.2, 1.0], rtol=1e-6)
    assert sample.pixels.shape == (2, 1, 2)


def test_image_axes():
    image = np.arange(11 * 21 * 3, dtype=np.uint8).reshape(11, 21, 3)
    scan = make_scan([[4, 0, 0]], cameras=(forward_camera(load=lambda: image),))
    images = make_sample(scan, 0, DataConfig(images=True)).images
    np.testing.assert_allclose(images[0, 2, 4, 7] * 255, image[4, 7, 2], rtol=1e-6)


def test_images_are_not_decoded_unless_wanted():
    def load() -> np.ndarray:
        raise AssertionError("decoded")

    scan = make_scan([[4, 0, 0]], cameras=(forward_camera(load=load),))
    assert make_sample(scan, 0, DataConfig()).images is None


def test_images_wanted_but_none():
    with pytest.raises(UserError, match="has no camera image"):
        make_sample(make_scan([[0, 0, 0]]), 0, DataConfig(images=True))


def test_images_of_two_sizes():
    scan = make_scan([[4, 0, 0]], cameras=(forward_camera((21, 11)), forward_camera((31, 11))))
    with pytest.raises(UserError, match=r"front 21x11, front 31x11.*image_size"):
        make_sample(scan, 0, DataConfig(images=True))


def test_random_cameras():
    cameras = tuple(replace(forward_camera(colour=c), name=f"c{c}") for c in range(6))
    scan, config = make_scan([[4, 0, 0]], cameras=cameras), DataConfig(images=True, train_cameras=3)
    drawn = set()
    for seed in range(40):
        images = make_sample(scan, 0, config, training=True, rng=rng(seed)).images
        colours = tuple(np.rint(images[:, 0, 0, 0] * 255).astype(int))
        assert len(colours) == 3
        assert list(colours) == sorted(set(colours))
        drawn.update(colours)
    assert drawn == set(range(6))
    assert make_sample(scan, 0, config).images.shape[0] == 6


def test_training_needs_a_generator():
    with pytest.raises(ValueError, match="random generator"):
        make_sample(make_scan([[0, 0, 0]]), 0, DataConfig(), training=True)

"""Mix augmentation: another scan's instances behind the scan's own points, and nothing else changed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from data_fakes import forward_camera, make_scan

from core.contracts import Scan
from core.data import PairedSamples, ScanSamples
from core.data.config import AugmentConfig, DataConfig, ImageAugmentConfig
from core.data.mix import Mixer, mix_scans
from core.data.sampler import SampleKey
from core.errors import UserError

TURN = AugmentConfig(flip=False, rotate=(90, 90), scale=None, translate_std=None)


class Scans:
    """Scan ``i`` has 5 points of its own, the last two of an instance, and one point of a sweep."""

    def __init__(self, count: int, bare: bool = False, budget: np.ndarray | None = None) -> None:
        self.count, self.bare, self.budget = count, bare, budget

    def __len__(self) -> int:
        return self.count

    def token(self, index: int) -> str:
        return f"scan{index}"

    def load(self, index: int, *, cameras: bool = True) -> Scan:
        points = [[10 * index + 3, j, 0] for j in range(6)]
        scan = make_scan(
            points,
            labels=[1, 1, 1, 2, 2, 2],
            time_lag=[0, 0, 0, 0, 0, 0.1],
            token=self.token(index),
        )
        instances = None if self.bare else np.array([0, 0, 0, 7, 7, 7], np.int32)
        cameras = (forward_camera(),) if cameras else ()
        return replace(scan, points=scan.points.having(instance=instances), cameras=cameras)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_under_a_label_budget_only_labelled_scans_give_and_take() -> None:
    scans = Scans(4, budget=np.array([True, False, True, True]))
    mixer = Mixer(scans, None, 1.0)
    drawn = {float(mixer(scans.load(0), 0, rng(seed)).xyz[5, 0]) for seed in range(60)}
    assert drawn == {23.0, 33.0}
    unlabelled = scans.load(1)
    assert mixer(unlabelled, 1, rng()) is unlabelled


def test_instances_follow_the_keyframe() -> None:
    scan, other = Scans(2).load(0), Scans(2).load(1)
    mixed = mix_scans(scan, other)
    assert mixed.xyz[:, 0].tolist() == [3, 3, 3, 3, 3, 13, 13, 3]
    assert mixed.intensity.tolist() == [0, 1, 2, 3, 4, 3, 4, 5]
    assert mixed.labels.tolist() == [1, 1, 1, 2, 2, 2, 2, 2]
    assert mixed.instances.tolist() == [0, 0, 0, 7, 7, 14, 14, 7]
    assert mixed.keyframe.tolist() == [True] * 7 + [False]
    assert mixed.pasted.tolist() == [False] * 5 + [True] * 2 + [False]
    assert mixed.cameras is scan.cameras and mixed.token == scan.token
    kinds = {
        name: getattr(mixed, name).dtype
        for name in ("xyz", "intensity", "labels", "instances", "time_lag")
    }
    assert kinds == {name: getattr(scan, name).dtype for name in kinds}
    without = other.having(instance=np.zeros(6, np.int32))
    assert mix_scans(scan, without) is scan


def test_any_scan_but_the_same() -> None:
    mixer, scan = Mixer(Scans(4), None, 1.0), Scans(4).load(1)
    drawn = [mixer(scan, 1, rng(seed)).xyz[5, 0] for seed in range(300)]
    counts = {x: drawn.count(x) for x in set(drawn)}
    assert counts.keys() == {3, 23, 33}
    assert min(counts.values()) > 70  # expected 100, standard deviation 8
    assert Mixer(Scans(1), None, 1.0)(scan, 0, rng()) is scan
    mixed = [Mixer(Scans(4), None, 0.3)(scan, 1, rng(seed)) is not scan for seed in range(500)]
    assert 110 < sum(mixed) < 190


def test_instances_turn_on_their_own() -> None:
    mixed = Mixer(Scans(2), TURN, 1.0)(Scans(2).load(0), 0, rng())
    np.testing.assert_allclose(mixed.xyz[5:7], [[-3, 13, 0], [-4, 13, 0]], atol=1e-5)
    assert mixed.xyz[:5, 0].tolist() == [3] * 5


def test_orientations_are_independent() -> None:
    """Correlation of the two parts' directions over many samples."""
    samples = ScanSamples(
        Scans(2), DataConfig(voxel_size=0.01, mix=1.0, augment=AugmentConfig()), training=True
    )
    angles = []
    for epoch in range(400):
        sample = samples[SampleKey(epoch, 0)]
        points = sample.feats[np.argsort(sample.voxel_to_point)]
        angles.append(
            [np.arctan2(points[0, 1], points[0, 0]), np.arctan2(points[5, 1], points[5, 0])]
        )
    a, b = np.array(angles).T
    for difference in (a - b, a + b):
        assert (
            np.hypot(np.cos(difference).mean(), np.sin(difference).mean()) < 0.12
        )  # expected 0.05 x 0.89
    assert np.hypot(np.cos(a).mean(), np.sin(a).mean()) < 0.12


def test_images_know_nothing_of_them() -> None:
    """The scan's own links to its images are the same with and without."""
    config = DataConfig(
        voxel_size=0.01, augment=None, images=True, image_augment=ImageAugmentConfig(crop=(15, 9))
    )
    plain = ScanSamples(Scans(3), config, training=True)[SampleKey(0, 0)]
    mixed = ScanSamples(Scans(3), config.model_copy(update={"mix": 1.0}), training=True)[
        SampleKey(0, 0)
    ]
    own = np.flatnonzero((mixed.voxel_to_point < 5) | (mixed.voxel_to_point == 7))
    np.testing.assert_array_equal(mixed.images, plain.images)
    np.testing.assert_array_equal(mixed.pixels[:, own], plain.pixels)
    np.testing.assert_array_equal(mixed.visible[:, own], plain.visible)
    assert plain.visible.any()
    pasted = np.setdiff1d(np.arange(len(mixed.coords)), own)
    assert len(pasted) == 2 and not mixed.visible[:, pasted].any()
    assert (mixed.labels[pasted] == 2).all()


def test_training_only_and_the_same_in_both_views() -> None:
    config = DataConfig(voxel_size=0.01, mix=1.0, sweeps=False)
    assert len(ScanSamples(Scans(3), config)[SampleKey(0, 0)].point_labels) == 5
    student, teacher = PairedSamples(
        Scans(3), config, config.model_copy(update={"sweeps": True}), training=True
    )[SampleKey(0, 0)]
    assert len(student.point_labels) == 7 and len(teacher.point_labels) == 8
    np.testing.assert_array_equal(student.distance, teacher.distance[:7])


def test_instances_are_needed() -> None:
    samples = ScanSamples(Scans(3, bare=True), DataConfig(mix=1.0), training=True)
    with pytest.raises(
        UserError, match=r"scan0 has no instance numbers.*data.mix.*dataset.instances: true"
    ):
        samples[SampleKey(0, 0)]

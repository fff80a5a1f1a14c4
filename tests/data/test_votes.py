"""Given views of a scan: their plan, their points, and the batches they come in."""

from __future__ import annotations

import numpy as np
import pytest
from data_fakes import ColourImage, FakeDataset, forward_camera, make_scan

from core.config import Config
from core.data import (
    DataConfig,
    VoteAugmentConfig,
    VotePlan,
    VoteSamples,
    build_loader,
    make_sample,
)
from core.data.augment import Change, move
from core.data.sampler import VOTE, SampleKey, sample_rng
from core.errors import UserError

CONFIG = DataConfig(voxel_size=0.5, augment=None)


# --- the views ------------------------------------------------------------------------------------------------------
def test_a_given_view_by_hand() -> None:
    points = np.array([[1, 2, 3], [0, -1, 5]], np.float32)
    view = Change(flip="x", degrees=90, scale=(2, 2, 1), shift=(1, 0, 0.5))
    # (1, 2, 3): mirrored (-1, 2, 3), turned (-2, -1, 3), scaled (-4, -2, 3), shifted (-3, -2, 3.5)
    np.testing.assert_allclose(move(points, view), [[-3, -2, 3.5], [3, 0, 5.5]], atol=1e-6)
    assert move(points, view).dtype == np.float32 and points[0].tolist() == [1, 2, 3]
    assert move(points, Change()) is points, "nothing changes, to the last bit"


def test_twelve_fixed_views_turn_by_thirty_degrees() -> None:
    views = VotePlan(12).of(5)
    assert [view.degrees for view in views] == [30.0 * k for k in range(12)]
    assert {(view.flip, view.scale, view.shift) for view in views} == {
        ("none", (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    }
    assert views == VotePlan(12, seed=3).of(7), "no draw enters"
    flipped = VotePlan(4, flips=True).of(0)
    assert [(view.flip, view.degrees) for view in flipped] == [
        ("none", 0.0),
        ("x", 90.0),
        ("none", 180.0),
        ("x", 270.0),
    ]


@pytest.mark.parametrize(
    "mode", ["fixed", "mirrors", "points", "legacy_random", "legacy_cumulative"]
)
def test_one_view_is_the_scan_as_recorded(mode) -> None:
    assert VotePlan(1, mode, flips=mode == "fixed").of(3) == (Change(),)


def test_random_views_are_a_function_of_seed_and_scan() -> None:
    plan = VotePlan(200, "legacy_random", seed=1)
    views = plan.of(4)
    assert views == plan.of(4) and views[:3] == VotePlan(3, "legacy_random", seed=1).of(4)
    assert views != plan.of(5) and views != VotePlan(200, "legacy_random", seed=2).of(4)
    degrees, shifts = np.array([v.degrees for v in views]), np.array([v.shift for v in views])
    assert -180 <= degrees.min() < -170 and 170 < degrees.max() <= 180
    np.testing.assert_allclose(shifts.std(0), 0.1, rtol=0.2)
    assert {(v.flip, v.scale) for v in views} == {("none", (1.0, 1.0, 1.0))}, (
        "2DPASS neither mirrors nor scales"
    )
    drawn = VoteAugmentConfig(flip=True, scale=(0.9, 1.1))
    other = VotePlan(50, "legacy_random", drawn=drawn).of(0)
    assert {v.flip for v in other} == {"none", "x", "y", "xy"} and len(
        {v.scale for v in other}
    ) == 50
    assert all(v.scale[0] == v.scale[1] and v.scale[2] == 1 for v in other), "height is not scaled"


def test_four_mirrors_of_each_angle_begin_with_the_scan_as_recorded() -> None:
    views = VotePlan(12, "mirrors").of(5)
    assert views == VotePlan(12, "mirrors", seed=3).of(7), "no draw enters"
    assert [(v.flip, v.degrees) for v in views] == [
        *(("none", 0.0), ("x", 0.0), ("y", 0.0), ("xy", 0.0)),
        *(("none", 30.0), ("x", 30.0), ("y", 30.0), ("xy", 30.0)),
        *(("none", -30.0), ("x", -30.0), ("y", -30.0), ("xy", -30.0)),
    ]
    assert views[0] == Change()


def test_cumulative_views_are_what_changing_points_in_place_gives() -> None:
    """Literally PVKD's test script: each version turns, mirrors and scales what the one before has left."""
    recorded = np.random.default_rng(0).normal(0, 20, (50, 3)).astype(np.float32)
    views = VotePlan(4, "legacy_cumulative", seed=1).of(9)
    assert views == VotePlan(4, "legacy_cumulative", seed=1).of(9)
    assert views != VotePlan(4, "legacy_cumulative", seed=1).of(8)
    rng = sample_rng(1, 0, 9, VOTE)
    points = recorded.astype(np.float64)
    handed = []
    for version in range(4):
        angle = np.deg2rad(rng.uniform(-45, 45))
        factor = rng.uniform(0.95, 1.05)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points[:, :2] = points[:, :2] @ turn.T
        if version in (1, 3):
            points[:, 0] *= -1
        if version in (2, 3):
            points[:, 1] *= -1
        points[:, :2] *= factor
        np.testing.assert_allclose(move(recorded, views[version]), points, atol=1e-4)
        (a, b), (c, d) = np.linalg.lstsq(recorded[:, :2], points[:, :2], rcond=None)[0]
        handed.append(bool(a * d - b * c < 0))
    assert handed == [False, True, False, False], "three of four are not mirrored"


def test_no_view_leaves_points_out() -> None:
    with pytest.raises(UserError, match=r"eval\.vote_augment\.dropout"):
        Config({"eval": {"vote_augment": {"dropout": 0.1}}}).parse(
            VoteAugmentConfig, "eval.vote_augment"
        )


def test_a_training_sample_takes_no_view() -> None:
    with pytest.raises(ValueError, match="draws its change"):
        make_sample(
            make_scan([[0, 0, 0]]),
            0,
            CONFIG,
            training=True,
            rng=np.random.default_rng(0),
            change=Change(),
        )


# --- the batches ----------------------------------------------------------------------------------------------------
def test_views_are_samples_of_the_moved_scan() -> None:
    dataset = FakeDataset(3, sweeps=4)
    samples = VoteSamples(dataset, CONFIG, VotePlan(5, flips=True), 2)
    assert samples.parts == 3
    made = [sample for part in range(3) for sample in samples[SampleKey(0, 1, part=part)]]
    assert len(made) == 5
    scan = dataset.load(1)
    for k, sample in enumerate(made):
        turned = scan.xyz * ([-1, 1, 1] if k % 2 else [1, 1, 1])
        angle = 2 * np.pi * k / 5
        matrix = np.array(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )
        turned = (turned @ matrix.T).astype(np.float32)
        np.testing.assert_allclose(sample.feats[:, :3], turned[sample.voxel_to_point], atol=1e-5)
        assert (sample.feats[:, 3] == scan.intensity[sample.voxel_to_point]).all()
        assert (sample.keyframe == scan.keyframe).all() and (
            sample.point_labels == scan.labels
        ).all()
        np.testing.assert_allclose(sample.distance, np.linalg.norm(scan.xyz, axis=1), rtol=1e-5)
    assert (made[0].coords == make_sample(scan, 1, CONFIG).coords).all()
    assert any(sample.coords.shape != made[0].coords.shape for sample in made), (
        "turned scans have other voxels"
    )


def test_point_range_is_that_of_the_recorded_points() -> None:
    config = CONFIG.model_copy(update={"point_range": (0.0, -9.0, -9.0, 9.0, 9.0, 9.0)})
    made = VoteSamples(FakeDataset(1), config, VotePlan(4), 4)[SampleKey(0, 0)]
    kept = FakeDataset(1).load(0).xyz[:, 0] >= 0
    assert 0 < kept.sum() < len(kept)
    assert all(((sample.point_to_voxel >= 0) == kept).all() for sample in made)


class Counted(ColourImage):
    """Counts how often it is decoded."""

    count = 0

    def __call__(self) -> np.ndarray:
        Counted.count += 1
        return super().__call__()


class OneCamera(FakeDataset):
    """Each scan with one camera whose decoding is counted."""

    def load(self, index: int, *, cameras: bool = True):
        points = np.random.default_rng(index).uniform((1, -1, -0.5), (9, 1, 0.5), (60, 3))
        return make_scan(
            points, cameras=(forward_camera(load=Counted((21, 11), 51)),), token=self.token(index)
        )


def test_pixels_are_those_of_the_recorded_points() -> None:
    Counted.count = 0
    samples = VoteSamples(OneCamera(2), CONFIG.model_copy(update={"images": True}), VotePlan(6), 3)
    made = samples[SampleKey(0, 1)]
    scan = OneCamera(2).load(1)
    uv, _, visible = scan.cameras[0].project(scan.xyz)
    assert len(made) == 3 and Counted.count == 1, "an image is decoded once for all views"
    for sample in made:
        rows = sample.voxel_to_point
        assert (sample.visible[0] == visible[rows]).all() and visible.all()
        np.testing.assert_allclose(sample.pixels[0], 2 * uv[rows] / [20, 10] - 1, atol=1e-5)
        assert (sample.images == made[0].images).all()
    rest, other = samples[SampleKey(0, 1, part=1)], samples[SampleKey(0, 0)]
    assert Counted.count == 2, "the scan is kept for its other batches, until the next scan comes"
    assert (
        rest[0].token == made[0].token != other[0].token
        and (rest[2].images == made[0].images).all()
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_scan_follow_one_another(workers) -> None:
    samples = VoteSamples(FakeDataset(5), CONFIG, VotePlan(5), 2, indices=[4, 0, 2])
    loader = build_loader(samples, batch_size=1, workers=workers, training=False)
    batches = list(loader)
    loader.close()
    assert len(loader) == 9
    expected = [name for name in ("scan4", "scan0", "scan2") for _ in range(5)]
    assert [token for batch in batches for token in batch.tokens] == expected
    assert [len(batch) for batch in batches] == [2, 2, 1] * 3


def test_processes_share_scans_and_not_views() -> None:
    samples = VoteSamples(FakeDataset(3), CONFIG, VotePlan(3), 2)
    seen = {}
    for rank in range(2):
        loader = build_loader(samples, batch_size=1, workers=0, training=False, rank=rank, world=2)
        seen[rank] = [(batch.tokens, batch.padded) for batch in loader]
    plain, pad = (False, False), (True, True)
    assert seen[0] == [
        (("scan0",) * 2, plain), (("scan0",), plain[:1]), (("scan2",) * 2, plain), (("scan2",), plain[:1]),
    ]  # fmt: skip
    assert [tokens for tokens, _ in seen[1]] == [
        ("scan1",) * 2,
        ("scan1",),
        ("scan0",) * 2,
        ("scan0",),
    ]
    assert [padded for _, padded in seen[1]] == [plain, plain[:1], pad, pad[:1]]

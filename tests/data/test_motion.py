"""Motion features: the published formula in float64, whose scan looks at which, and one scan at a time."""

from __future__ import annotations

import numpy as np
import pytest

from core.data.motion import FinishedScan, MotionStream
from core.datasets.motion_config import MotionConfig
from core.errors import UserError
from tests import motion_world as world

COUNT = 20
PAPER = MotionConfig()
CHANNELS = range(8)


def streamed(scans: list, config: MotionConfig = PAPER) -> list[FinishedScan]:
    stream = MotionStream(config)
    pushed = [stream.push(xyz, world.pose(i)) for i, xyz in enumerate(scans)]
    return [scan for scan in pushed if scan is not None] + list(stream.finish())


@pytest.fixture(scope="module")
def scans() -> list[np.ndarray]:
    return world.sequence(COUNT)


@pytest.fixture(scope="module")
def paper(scans) -> list[np.ndarray]:
    return [scan.features() for scan in streamed(scans)]


FRONT = {"azimuth": (-35.0, 35.0), "bins": (64, 480), "height": (-2.0, 1.5)}  # a Livox


@pytest.mark.parametrize("other", [{}, FRONT], ids=["kitti", "front"])
def test_the_published_formula(scans, other):
    config = MotionConfig(**other)
    expected = world.published(scans[:12], [world.pose(i) for i in range(12)], config)
    found = streamed(scans[:12], config)
    assert [scan.number for scan in found] == list(range(12))
    different = points = 0
    for scan, values in zip(found, expected):
        rounded = values.astype(np.float16).astype(np.float32)
        different += int((scan.features() != rounded).sum())
        points += int((values > 0).sum())
    assert points > 300
    assert different <= 2  # a point on the border of cells, by the last bit of a product of poses


def test_what_is_static_has_no_motion():
    still = np.concatenate([world.wall(), world.poles(5, 200)])
    for scan in streamed([world.scan(i, still) for i in range(12)]):
        assert not scan.motion.maps.any()


def test_what_counts_has_lost_or_gained_four_fifths_of_forty_centimetres(paper):
    values = np.concatenate(paper)
    least = values[values > 0].min()
    assert 0.32 * (1 - 2**-11) <= least < 0.5
    assert values.max() <= 4


def test_scan_10_is_looked_at_by_those_before_and_after_it(scans, paper):
    changed = [scan.features() for scan in streamed(world.sequence(COUNT, other=10))]
    for number in range(COUNT):
        if number == 10:
            continue  # its own points are others
        looks = set()
        for k in CHANNELS:
            if not np.array_equal(paper[number][:, k], changed[number][:, k]):
                looks.add(k)
        assert looks == {k for k in CHANNELS if number + k - 7 <= 10 <= number + k}
        assert {3: {7}, 4: {6, 7}, 17: {0}, 18: set()}.get(number, looks) == looks


@pytest.mark.parametrize("count", [8, 11, COUNT])
def test_the_ends_of_a_sequence(scans, count):
    found = streamed(scans[:count])
    for scan in found:
        there = {k for k in CHANNELS if 7 <= scan.number + k <= count - 1}
        assert set(scan.motion.channels) == there
        assert {k for k in CHANNELS if scan.motion.maps[k].any()} == there
    assert set(found[0].motion.channels) == {7}
    assert set(found[-1].motion.channels) == {0}


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_short_sequence_ends_with_zeros(scans, count):
    found = streamed(scans[:count])
    assert [scan.number for scan in found] == list(range(count))
    assert all(not scan.features().any() for scan in found)


@pytest.mark.parametrize("delay", range(8))
def test_a_shorter_delay_gives_the_same_channels_earlier(scans, paper, delay):
    stream = MotionStream(MotionConfig(delay=delay))
    for number, xyz in enumerate(scans):
        scan = stream.push(xyz, world.pose(number))
        if number < delay:
            assert scan is None
            continue
        assert scan.number == number - delay
        features = scan.features()
        expected = paper[scan.number].copy()
        expected[:, delay + 1 :] = 0
        np.testing.assert_array_equal(features, expected)
    assert len(list(stream.finish())) == delay


def test_wrong_pushes_are_named():
    stream = MotionStream(PAPER)
    with pytest.raises(UserError, match=r"pose of scan 0 .*NaN"):
        stream.push(np.zeros((3, 3)), np.full((4, 4), np.nan))
    with pytest.raises(UserError, match=r"scan 0 .*\[3, 4\]; expected points"):
        stream.push(np.zeros((3, 4)), np.eye(4))


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay": 8},
        {"range": (60, 0)},
        {"azimuth": (-200, 180)},
        {"bins": (0, 3)},
        {"extent": (0, 1)},
    ],
)
def test_wrong_settings(wrong):
    with pytest.raises(ValueError):
        MotionConfig(**wrong)

"""Cells shown by one of their points after the other."""

from __future__ import annotations

import numpy as np
import pytest
from data_fakes import FakeDataset

from core.contracts import Grouping
from core.data import DataConfig, VotePlan, VoteSamples
from core.data.sampler import SampleKey
from core.data.visits import visited

# Cell 0: points 0, 3, 5 of the current scan and 6 of an older one; cell 1: point 1; cell 2: points 4, 7 of scan 2.
OF_POINT = np.array([0, 1, -1, 0, 2, 0, 0, 2])
SWEEP = np.array([0, 0, 0, 0, 2, 0, 1, 2])
GROUPING = Grouping(np.zeros((3, 3), np.int32), np.array([0, 1, 4]), OF_POINT)


@pytest.mark.parametrize(
    ("visit", "points"), [(0, [0, 1, 4]), (1, [3, 1, 7]), (2, [5, 1, 4]), (3, [0, 1, 7])]
)
def test_points_of_the_representatives_scan_take_turns(visit: int, points: list[int]) -> None:
    found = visited(GROUPING, SWEEP, visit)
    assert found.point.tolist() == points
    assert found.of_point is GROUPING.of_point and found.coords is GROUPING.coords


def test_a_representative_that_is_not_the_first_is_number_zero() -> None:
    grouping = Grouping(GROUPING.coords, np.array([5, 1, 7]), OF_POINT)
    found = [visited(grouping, SWEEP, visit).point.tolist() for visit in range(3)]
    assert found == [[5, 1, 7], [0, 1, 4], [3, 1, 7]]


def test_every_point_of_the_keyframe_is_shown_once_there_are_visits_enough() -> None:
    """Against a count made point by point."""
    config = DataConfig(voxel_size=4.0, augment=None)
    dataset = FakeDataset(1, sweeps=2)
    made = VoteSamples(dataset, config, VotePlan(64, "points"), 64)[SampleKey(0, 0)]
    first = made[0]
    times = np.zeros(len(first.points), int)
    for sample in made:
        assert np.array_equal(sample.grouping.of_point, first.grouping.of_point)
        times[sample.grouping.point] += 1
    keyframe = first.points["sweep"] == 0
    fullest = np.bincount(first.grouping.of_point[keyframe]).max()
    assert 2 < fullest <= 64
    assert times[keyframe].min() >= 1
    with_keyframe = np.isin(first.grouping.of_point, first.grouping.of_point[keyframe])
    assert not times[with_keyframe & ~keyframe].any(), "older scans stay silent there"

"""Means, intervals and paired differences of the benchmark of gains."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.gain.intervals import best_mean, interval, paired


def test_an_interval_is_students() -> None:
    values = {0: 41.0, 1: 44.5, 2: 43.2, 3: 39.9}
    ours = interval(values)
    sample = np.array(list(values.values()))
    low, high = stats.t.interval(0.95, 3, loc=sample.mean(), scale=stats.sem(sample))
    assert ours.half is not None
    assert (ours.mean - ours.half, ours.mean + ours.half) == pytest.approx((low, high))


def test_differences_are_paired_by_seed() -> None:
    """As scipy's paired t-test has them, whatever the order of the seeds."""
    ours = {2: 47.0, 0: 45.1, 1: 44.0}
    theirs = {0: 41.0, 1: 42.5, 2: 41.2, 7: 99.0}
    difference = paired(ours, theirs)
    assert difference is not None and difference.half is not None
    first, second = ([values[seed] for seed in (0, 1, 2)] for values in (ours, theirs))
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    found = (difference.mean - difference.half, difference.mean + difference.half)
    assert found == pytest.approx((expected.low, expected.high))
    assert difference.values.keys() == {0, 1, 2}
    assert difference.certain == (expected.low > 0)
    assert paired(ours, {5: 1.0}) is None


def test_one_seed_has_no_interval() -> None:
    alone = paired({0: 44.0}, {0: 45.5})
    assert alone is not None and alone.half is None and not alone.certain
    assert alone.signed == "-1.5"


def test_the_best_mean_is_of_those_with_all_seeds() -> None:
    half_done = {0: 60.0}
    assert best_mean([{0: 40.0, 1: 50.0}, half_done, {0: 44.0, 1: 47.0}]) == 2
    assert best_mean([{}, half_done]) == 1
    assert best_mean([]) is None
    assert best_mean([{}]) is None

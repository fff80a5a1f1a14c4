"""Scores of superpixels against true segments, on divisions whose scores can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.superpixels import agreement, boundary_recall, undersegmentation

HALVES = np.repeat([[0, 1]], 10, 0).repeat(10, 1)  # [10, 20], a border between columns 9 and 10


def halves(border: int) -> np.ndarray:
    return np.broadcast_to(np.arange(20) >= border, (10, 20)).astype(np.int64)


@pytest.mark.parametrize(
    ("border", "recall"), [(10, 1.0), (12, 1.0), (8, 1.0), (13, 0.0), (7, 0.0)]
)
def test_a_border_is_recalled_within_two_pixels(border: int, recall: float) -> None:
    assert boundary_recall(halves(border), HALVES) == recall


def test_undersegmentation_counts_the_smaller_part() -> None:
    """A superpixel of 120 pixels has 20 in the other half: 20 for either segment that it meets, of 200."""
    assert undersegmentation(halves(10), HALVES) == 0
    assert undersegmentation(halves(12), HALVES) == pytest.approx(2 * 20 / 200)
    assert undersegmentation(np.zeros_like(HALVES), HALVES) == pytest.approx(2 * 100 / 200)
    assert agreement(halves(12), HALVES) == pytest.approx(180 / 200)

"""The lens model, against its formula point by point."""

from __future__ import annotations

import numpy as np
import pytest

from core.datasets.waymo.lens import distort, undistort

FRONT = np.array([0.0404, -0.3300, 0.00104, -0.00157, 0.01])


def by_hand(x: float, y: float, k1: float, k2: float, p1: float, p2: float, k3: float) -> tuple:
    """OpenCV's documentation, one point at a time."""
    r = (x**2 + y**2) ** 0.5
    swell = 1 + k1 * r**2 + k2 * r**4 + k3 * r**6
    return (
        x * swell + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
        y * swell + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
    )


def test_points_move_as_the_formula_says() -> None:
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 4, 2))
    expected = [[by_hand(*point, *FRONT) for point in row] for row in points]
    np.testing.assert_allclose(distort(points, FRONT), expected, rtol=1e-12)


def test_the_inverse_goes_back_to_the_corners_of_the_images() -> None:
    x, y = np.meshgrid(np.linspace(-0.49, 0.49, 50), np.linspace(-0.33, 0.33, 40))
    drawn = np.stack([x, y], -1)
    np.testing.assert_allclose(distort(undistort(drawn, FRONT), FRONT), drawn, atol=1e-9)
    assert np.array_equal(undistort(drawn, np.zeros(5)), drawn)


def test_where_the_lens_draws_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at 1 of the points"):
        undistort(np.array([[0.1, 0.1], [3.0, 0.0]]), FRONT)

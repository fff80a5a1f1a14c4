"""Packed features and colours against float64: bounds that hold for every pair, one basis for two sets."""

from __future__ import annotations

import numpy as np
import pytest

from core.engine.report.embedding import error_bound, pack_all, pca_colors, unit


def features(count: int, channels: int, rank: int, seed: int) -> np.ndarray:
    """Unit features that lie in ``rank`` dimensions, but for a little noise."""
    rng = np.random.default_rng(seed)
    frame = np.random.default_rng(9).normal(size=(rank, channels))
    noise = 1e-4 * rng.normal(size=(count, channels))
    return unit((rng.normal(size=(count, rank)) @ frame + noise).astype(np.float32))


@pytest.mark.parametrize(("rank", "width"), [(6, 8), (20, 24), (40, 40)])
def test_no_similarity_is_off_by_more_than_the_bound(rank, width):
    sets = [features(700, 40, rank, 1), features(500, 40, rank, 2), np.zeros((0, 40), np.float32)]
    packed, bound = pack_all(sets, 0.05)
    assert packed[0].values.shape == (700, width) and packed[2].values.shape == (0, width)
    assert bound <= 0.05
    worst = 0.0
    for i in (0, 1):
        for j in (0, 1):
            exact = sets[i].astype(np.float64) @ sets[j].astype(np.float64).T
            coefficients = [packed[k].coefficients().astype(np.float64) for k in (i, j)]
            off = np.abs(coefficients[0] @ coefficients[1].T - exact).max()
            assert off <= error_bound(packed[i], packed[j]) + 1e-6
            assert error_bound(packed[i], packed[j]) <= bound
            worst = max(worst, off)
    assert worst > bound / 50, "the bound says something"


def test_what_cannot_be_kept_is_kept_as_well_as_it_can():
    wide = features(600, 700, 700, 3)
    packed, bound = pack_all([wide, wide[:50]], 1e-6)
    assert packed[0].values.shape[1] == 512 and bound > 0.1
    exact = wide.astype(np.float64) @ wide[:50].astype(np.float64).T
    told = packed[0].coefficients() @ packed[1].coefficients().T
    assert np.abs(told - exact).max() <= bound


def test_a_component_that_never_changes_costs_nothing():
    same = np.tile(unit(np.arange(1, 13, dtype=np.float32)), (30, 1))
    packed, bound = pack_all([same], 0.01)
    assert bound < 1e-6
    assert np.isfinite(packed[0].coefficients()).all()


def test_unit_leaves_zeros_alone():
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0]], atol=1e-7)


def test_equal_features_have_equal_colours_whichever_set_they_are_in():
    shared = features(50, 16, 5, 4)
    points = np.concatenate([shared, features(300, 16, 5, 5)])
    pixels = np.concatenate([shared, features(900, 16, 5, 6) + 0.3])
    of_points, of_pixels, _ = pca_colors(points, pixels)
    assert (of_points[:50] == of_pixels[:50]).all()
    assert len(np.unique(of_points[:50], axis=0)) > 30


def test_colours_are_the_main_components_of_both_sets_alike():
    points, pixels = features(400, 16, 5, 7), features(400, 16, 5, 8) + 0.2
    of_points, _, explained = pca_colors(points, pixels)
    both = np.concatenate([points, pixels]).astype(np.float64)
    centred = both - both.mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(explained, (singular**2 / (singular**2).sum())[:3], rtol=1e-6)
    for k in range(3):
        along = centred[:400] @ axes[k]
        order = np.argsort(along)
        steps = np.diff(of_points[order, k].astype(int))
        assert (steps >= 0).all() or (steps <= 0).all(), "a component grows along its axis"
    many = np.tile(pixels, (10, 1))
    assert (pca_colors(points, many)[0] == of_points).mean() > 0.99, "the larger set weighs no more"


def test_two_channels_leave_a_colour_dark():
    of_points, of_pixels, explained = pca_colors(features(20, 2, 2, 1), features(30, 2, 2, 2))
    assert of_points.shape == (20, 3) and (of_pixels[:, 2] == 0).all()
    assert explained[2] == 0 and explained.sum() == pytest.approx(1)

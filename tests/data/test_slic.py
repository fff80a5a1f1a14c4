"""Superpixels: colours and seeds against published numbers, clusters against a plain twin, pieces against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from slic_reference import clusters, connected, pieces, smoothed

from core.data.superpixels.clusters import cluster
from core.data.superpixels.colours import lab, smooth
from core.data.superpixels.pieces import connect
from core.data.superpixels.slic import SlicConfig, seed_grid, slic


def picture(shape: tuple[int, int], seed: int = 0, low: int = 0, high: int = 255) -> np.ndarray:
    """Smooth random colours that fill low..high."""
    noise = np.random.default_rng(seed).normal(size=(*shape, 3))
    noise = smoothed(noise, 6.0)
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    return (low + noise * (high - low)).astype(np.uint8)


@pytest.mark.parametrize(
    ("colour", "expected"),  # CIE Lab under D65 of the sRGB primaries, as published
    [
        ((255, 255, 255), (100.0, 0.0, 0.0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 255, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((119, 119, 119), (50.03, 0.0, 0.0)),
    ],
)
def test_colours(colour: tuple[int, ...], expected: tuple[float, ...]) -> None:
    found = lab(np.array([[colour]], np.uint8))[:, 0, 0]
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0, 40.0])
def test_smoothing_is_scipys(sigma: float) -> None:
    """The widest reaches beyond the image more than once."""
    planes = np.random.default_rng(0).normal(size=(3, 21, 34)).astype(np.float32)
    expected = ndimage.gaussian_filter(planes.astype(np.float64), (0, sigma, sigma))
    np.testing.assert_allclose(smooth(planes, sigma), expected, rtol=0, atol=3e-6)


def test_roots_are_exact_enough() -> None:
    """Every grey against the formula itself."""
    grey = np.arange(256, dtype=np.uint8)
    value = grey / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    light = np.where(linear > 0.008856, 116 * np.cbrt(linear) - 16, 903.3 * linear)
    found = lab(np.repeat(grey[None, :, None], 3, 2))
    np.testing.assert_allclose(found[0, 0], light, rtol=0, atol=2e-3)
    np.testing.assert_allclose(found[1:], 0, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("size", "segments", "seeds"),  # (height, width); seeds as counted with scikit-image 0.18.2
    [((900, 1600), 150, 144), ((900, 1600), 30, 28)],
)
def test_seeds_of_nuscenes_images(size: tuple[int, int], segments: int, seeds: int) -> None:
    rows, columns, _ = seed_grid(size, segments)
    assert len(rows) * len(columns) == seeds


@pytest.mark.parametrize("segments", [30, 150])
@pytest.mark.parametrize(
    "size", [(376, 1241), (886, 1920), (416, 224), (224, 416), (37, 1000), (1000, 3), (1, 7)]
)
def test_never_more_seeds_than_superpixels_wanted(size: tuple[int, int], segments: int) -> None:
    """scikit-image's rounded step gives 154 seeds for 150 in the first, 32 for 30 in the second."""
    rows, columns, step = seed_grid(size, segments)
    assert 0 < len(rows) * len(columns) <= segments and step >= 1
    assert rows.max() < size[0] and columns.max() < size[1]


@pytest.mark.parametrize(("segments", "count"), [(150, 144), (30, 28)])
def test_an_even_image_keeps_its_seeds(segments: int, count: int) -> None:
    labels = slic(np.full((900, 1600, 3), 77, np.uint8), SlicConfig(segments=segments))
    assert np.unique(labels).tolist() == list(range(count))


@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_those_of_a_plain_twin(seed: int) -> None:
    image = picture((60, 90), seed)
    config = SlicConfig(segments=24, compactness=6.0, sigma=2.0)
    rows, columns, step = seed_grid((60, 90), 24)
    seeds = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    nearest = clusters(smoothed(np.moveaxis(lab(image), 0, -1), 2.0), seeds, step, 6.0)
    mean = 60 * 90 / len(seeds)
    expected = connect(nearest.astype(np.int32), int(mean / 2), int(3 * mean))
    found = slic(image, config)
    assert (found == expected).mean() > 0.999 and found.max() == expected.max()


@pytest.mark.parametrize("size", [(64, 96), (61, 75), (9, 200)])
def test_distances_are_asked_of_every_centre_that_may_be_nearest(size: tuple[int, int]) -> None:
    """Of many small and few large windows, where tiles end within the image and beyond it."""
    colours = smoothed(np.moveaxis(lab(picture(size, 3)), 0, -1), 1.0)
    for segments in (6, 40, 150):
        rows, columns, step = seed_grid(size, segments)
        seeds = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        planes = np.ascontiguousarray(np.moveaxis(colours, -1, 0), np.float32)
        expected = clusters(colours, seeds, step, 6.0)
        assert (cluster(planes, seeds, step, 6.0, 10) == expected).mean() > 0.995


@pytest.mark.parametrize("sizes", [(1, 1000), (4, 1000), (4, 30), (30, 31), (1, 1)])
def test_pieces_are_those_of_a_plain_twin(sizes: tuple[int, int]) -> None:
    """Noise falls into pieces of all sizes: some go to a neighbour, some are cut, some keep their shape."""
    values = np.random.default_rng(0).integers(0, 3, (12, 17)).repeat(2, 0).repeat(2, 1)
    values[5:9, 3:30] = 1
    labels = values.astype(np.int32)
    assert (connect(labels, *sizes) == connected(labels, *sizes)).all()


@pytest.mark.parametrize("size", [(376 // 4, 1241 // 4), (1920 // 8, 886 // 8), (57, 101)])
@pytest.mark.parametrize("segments", [30, 150])
def test_every_superpixel_is_one_piece_and_labels_are_few(
    size: tuple[int, int], segments: int
) -> None:
    labels = slic(picture(size, 5), SlicConfig(segments=segments, sigma=1.0))
    count = len(np.unique(labels))
    assert labels.max() == count - 1 < segments
    assert pieces(labels) == count and count > segments // 6


def test_small_pieces_go_to_a_neighbour_and_large_ones_are_cut() -> None:
    labels = np.zeros((4, 6), np.int32)
    labels[:, 3:] = 1
    labels[1, 1] = 2  # alone within 0
    assert connect(labels, 2, 100).tolist() == [[0, 0, 0, 1, 1, 1]] * 4
    cut = connect(np.zeros((1, 7), np.int32), 2, 3)
    assert cut.tolist() == [[0, 0, 0, 1, 1, 1, 1]]  # the rest of one pixel joins its neighbour


def test_dark_images_depend_on_the_stretching_of_values() -> None:
    dark, full = picture((80, 120), 1, 3, 20), picture((80, 120), 1)
    plain, stretched = SlicConfig(segments=24), SlicConfig(segments=24, rescale=True)
    assert (slic(dark, plain) != slic(dark, stretched)).any()
    assert full.min() == 0 and full.max() == 255
    assert (slic(full, plain) == slic(full, stretched)).all()

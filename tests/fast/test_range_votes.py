"""Votes of neighbouring pixels against loops over each window."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from core.fast import plain, range_votes

CLASSES = 6
Scene = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def scene(seed: int, height: int = 9, width: int = 11) -> Scene:
    """Two images with empty pixels and equal ranges, and points in occupied pixels, some behind the nearest."""
    rng = np.random.default_rng(seed)
    ranges = rng.integers(4, 12, (2, height, width)).astype(np.float32)
    ranges[rng.random(ranges.shape) < 0.3] = np.inf
    classes = rng.integers(1, CLASSES, ranges.shape)
    occupied = np.argwhere(np.isfinite(ranges))
    pixels = occupied[rng.integers(0, len(occupied), 150)]
    own = ranges[tuple(pixels.T)] + rng.choice([0.0, 0.5, 3.0], 150)
    return ranges, classes, pixels, own.astype(np.float32)


def by_hand(world: Scene, search: int, neighbours: int, sigma: float, cutoff: float) -> np.ndarray:
    ranges, classes, pixels, own = world
    half = search // 2
    steps = range(-half, half + 1)
    gauss = {(y, x): math.exp(-(x * x + y * y) / (2 * sigma**2)) for y in steps for x in steps}
    total = sum(gauss.values())
    votes = np.zeros((len(own), CLASSES))
    for i, (image, row, column) in enumerate(pixels.tolist()):
        candidates = []
        for place, (y, x) in enumerate(gauss):
            r, c = row + y, column + x
            if not (0 <= r < ranges.shape[1] and 0 <= c < ranges.shape[2]):
                continue
            seen = own[i] if (y, x) == (0, 0) else ranges[image, r, c]
            distance = np.abs(seen - own[i]) * np.float32(1 - gauss[y, x] / total)
            candidates.append((distance, place, classes[image, r, c]))
        for distance, _, name in sorted(candidates)[:neighbours]:
            if distance <= cutoff:
                votes[i, name] += 1
    return votes


@pytest.mark.parametrize(
    "settings", [(7, 7, 1.0, 2.0), (5, 5, 1.0, 1.0), (3, 20, 2.0, 50.0), (1, 1, 1.0, 0.1)]
)
def test_votes_by_hand(settings: tuple[int, int, float, float]) -> None:
    world = scene(0)
    expected = by_hand(world, *settings)
    search, neighbours, sigma, cutoff = settings
    assert (expected.sum(1) >= 1).all(), "a point's own pixel always votes"
    tensors = [torch.from_numpy(array) for array in world]
    for count in (range_votes.neighbour_votes, plain.neighbour_votes):
        found = count(
            *tensors,
            num_classes=CLASSES,
            search=search,
            neighbours=neighbours,
            sigma=sigma,
            cutoff=cutoff,
        )
        assert np.array_equal(found.numpy(), expected)


def test_three_points() -> None:
    """A point behind an edge: its pixel shows the pole before it, its neighbours the wall it belongs to."""
    ranges = torch.tensor([[[20.0, 5.0, 20.5]]])
    classes = torch.tensor([[[2, 4, 2]]])
    pixels, own = torch.tensor([[0, 0, 1], [0, 0, 1]]), torch.tensor([5.0, 20.2])
    found = range_votes.neighbour_votes(
        ranges, classes, pixels, own, num_classes=5, search=3, neighbours=3, sigma=1.0, cutoff=2.0
    )
    assert found.tolist() == [[0, 0, 0, 0, 1], [0, 0, 2, 0, 1]]

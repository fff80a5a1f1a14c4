"""Supervoxels, their weights and what is drawn of them, against loops and numbers worked out by hand."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from made_samples import made_sample, with_coords, with_labels
from pvkd_world import CLASSES, SIZE, made_batch

from core.data import collate
from core.distill.pvkd import PVKD
from core.distill.supervoxels import (
    Counts,
    Supervoxels,
    class_factor,
    draw,
    first_of_each,
    minority_cells,
    outer_distance,
    scan_generators,
)
from core.errors import UserError
from core.losses import CrossEntropyLovasz


def blocks_of(batch, size=SIZE) -> list[tuple[int, ...]]:
    """Scan and block of each cell."""
    found = []
    for scan, *coords in batch.coords.tolist():
        found.append((scan, *(c // s for c, s in zip(coords, size))))
    return found


@pytest.mark.parametrize("partition", ["cylinder", "voxels"])
def test_supervoxels_are_blocks_of_cells(partition: str) -> None:
    batch = made_batch(partition)
    made = Supervoxels.of(batch, SIZE)
    blocks = blocks_of(batch)
    assert len(made) == len(set(blocks)) > 20
    for cell, block in enumerate(blocks):
        group = int(made.of_cell[cell])
        assert (int(made.scan[group]), *made.block[group].tolist()) == block
    assert torch.equal(made.of_point, made.of_cell[batch.cells.of_point])
    assert made.scan.tolist() == sorted(made.scan.tolist())
    points = Counter(made.of_point.tolist())
    assert made.count(made.of_point).tolist() == [points[i] for i in range(len(made))]


def test_a_full_grid_of_the_published_size_has_96() -> None:
    """4 x 6 x 4 of 120 x 60 x 8 cells in 480 x 360 x 32; one cell in each corner of a block is enough."""
    axes = [np.arange(59, 480, 60), np.arange(0, 360, 30), np.arange(7, 32, 4)]
    coords = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.int32)
    count = len(coords)
    every, zeros = np.arange(count), np.zeros(count, np.int64)
    distance = np.zeros(count, np.float32)
    sample = made_sample(
        "a", 0, coords, np.zeros((count, 4), np.float32), zeros, every, every, zeros,
        np.ones(count, bool), distance,
    )  # fmt: skip
    assert len(Supervoxels.of(collate([sample]), (120, 60, 8))) == 96


def test_another_number_of_axes_is_refused() -> None:
    with pytest.raises(UserError, match=r"distill.supervoxel.*\[6, 6\].*3 coordinates"):
        Supervoxels.of(made_batch(), (6, 6))


# --- weights --------------------------------------------------------------------------------------------------------
def test_distances_of_outer_arcs() -> None:
    """Rings of 6 cells of 0.5 m reach to 3, 6, 9 and 12 m; a ring of 7 ends beyond the grid, which ends at 12 m."""
    batch = made_batch()
    made = Supervoxels.of(batch, SIZE)
    expected = [3.0 * (ring + 1) for ring in made.block[:, 0].tolist()]
    assert outer_distance(batch, made, SIZE).tolist() == expected
    wide = Supervoxels.of(batch, (7, 6, 2))
    arcs = set(outer_distance(batch, wide, (7, 6, 2)).tolist())
    assert arcs == {3.5, 7.0, 10.5, 12.0}


def test_distances_of_cubes_are_those_of_their_farthest_cells() -> None:
    batch = made_batch("voxels")
    made = Supervoxels.of(batch, SIZE)
    farthest: dict[int, float] = defaultdict(float)
    for cell, group in enumerate(made.of_cell.tolist()):
        x, y, _ = batch.at_cells("xyz")[cell].tolist()
        farthest[group] = max(farthest[group], math.hypot(x, y))
    found = outer_distance(batch, made, SIZE)
    assert found.tolist() == pytest.approx([farthest[i] for i in range(len(made))], rel=1e-6)


def test_class_factor_by_hand() -> None:
    """4 exp(-2 N) + 1 at N = 0, 1, 2 and many."""
    expected = [5.0, 1.5413411, 1.0732626, 1.0]
    assert class_factor(torch.tensor([0.0, 1.0, 2.0, 50.0])).tolist() == pytest.approx(expected)


def test_minority_classes_have_at_most_a_share_of_their_scan() -> None:
    batch = made_batch()
    classes = batch.labels
    minority = minority_cells(batch, classes, CLASSES, 0.01)
    of_point = classes[batch.cells.of_point]
    for scan in range(2):
        first, last = batch.point_offsets[scan : scan + 2].tolist()
        counts = torch.bincount(of_point[first:last], minlength=CLASSES)
        rare = [c for c in range(CLASSES) if counts[c] <= 0.01 * (last - first)]
        cells = batch.coords[:, 0] == scan
        assert minority[cells].tolist() == [int(c) in rare for c in classes[cells]]
    assert 0 < minority.sum() < 10
    assert minority_cells(batch, classes, CLASSES, 1.0).all()
    assert not minority_cells(batch, classes, CLASSES, 0).any()


def method(**options: object) -> PVKD:
    config = PVKD.Config(name="pvkd", supervoxel=SIZE, aff_point=0, aff_voxel=0, **options)
    return PVKD(config, torch.nn.Identity(), None, CrossEntropyLovasz())


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [  # one cell of a minority class in the ring that ends at 6 m, none in those at 3 and 9 m
        ("difficulty", [3 / 5, 6 / 1.5413411, 9 / 5]),
        ("distance", [3.0, 6.0, 9.0]),
        ("class", [1 / 5, 1 / 1.5413411, 1 / 5]),
        ("uniform", [1.0, 1.0, 1.0]),
    ],
)
def test_weights_by_hand(sampling: str, expected: list[float]) -> None:
    batch = made_batch(scans=1, points=3)
    coords = torch.tensor([[0, 0, 0, 0], [0, 6, 0, 0], [0, 12, 0, 0]], dtype=torch.int32)
    batch = with_coords(batch, coords[: len(batch.coords)])
    made = Supervoxels.of(batch, SIZE)
    rare = torch.tensor([False, True, False])
    assert method(sampling=sampling)._weights(batch, made, rare).tolist() == pytest.approx(expected)
    assert method(min_points=2)._weights(batch, made, rare).tolist() == [0, 0, 0]


def test_weights_grow_with_distance() -> None:
    batch = made_batch(scans=1)
    made = Supervoxels.of(batch, SIZE)
    nothing_rare = torch.zeros(len(batch.coords), dtype=torch.bool)
    weights = method(min_points=1)._weights(batch, made, nothing_rare)
    ordered = weights[made.block[:, 0].argsort()]
    assert (ordered.diff() >= 0).all() and ordered[-1] > ordered[0] > 0


def test_the_teachers_classes_count_where_there_are_no_labels() -> None:
    """All is one class to the labels; the teacher names a second at one cell of the scan without labels."""
    batch = made_batch()
    labels = torch.where(batch.coords[:, 0] == 0, 1, 0)
    batch = with_labels(batch, labels)
    logits = torch.zeros(len(labels), CLASSES)
    logits[:, 1], logits[:, 0] = 1, 9  # "ignore" is never an answer
    cell = len(labels) - 1
    logits[[0, cell], 2] = 5
    seen = {}
    learner = method(min_points=10_000, n_voxel=2, n_point=2)
    learner._weights = lambda b, s, minority: seen.setdefault("rare", minority).new_ones(len(s))
    learner.drawn(batch, logits)
    assert seen["rare"].nonzero()[:, 0].tolist() == [cell]


# --- draws ----------------------------------------------------------------------------------------------------------
def test_first_of_each_is_a_sort_by_group() -> None:
    rng = np.random.default_rng(0)
    groups = torch.from_numpy(rng.integers(-1, 6, 50))
    groups[groups == 4] = 3  # 4 is empty
    priority = torch.from_numpy(rng.random(50))
    table = first_of_each(groups, priority, 7, 5)
    for group in range(7):
        items = sorted((groups == group).nonzero()[:, 0].tolist(), key=lambda i: priority[i])
        assert table[group].tolist() == (items + [-1] * 5)[:5]


def test_what_is_kept_of_a_supervoxel() -> None:
    batch = made_batch()
    made = Supervoxels.of(batch, SIZE)
    weights = torch.ones(len(made))
    weights[::3] = 0
    minority = torch.zeros(len(batch.cells), dtype=torch.bool)
    minority[::7] = True
    kept = draw(batch, made, weights, minority, Counts(3, 4, 5), scan_generators(batch, 0, 1))
    assert kept.cells.shape == (6, 4) and kept.points.shape == (6, 5)
    groups = []
    for row in range(6):
        cells = kept.cells[row][kept.cells[row] >= 0]
        points = kept.points[row][kept.points[row] >= 0]
        (group,) = set(made.of_cell[cells].tolist()) | set(made.of_point[points].tolist())
        groups.append(group)
        assert weights[group] > 0 and made.scan[group] == row // 3
        inside = (made.of_cell == group).nonzero()[:, 0]
        rare = int(minority[inside].sum())
        assert len(cells) == len(set(cells.tolist())) == min(4, len(inside))
        assert minority[cells].sum() == min(rare, len(cells))
        held = (made.of_point == group).nonzero()[:, 0]
        assert len(points) == len(set(points.tolist())) == min(5, len(held))
    assert len(set(groups)) == 6


def test_a_scan_with_too_few_supervoxels_leaves_padding() -> None:
    batch = made_batch(points=4)
    made = Supervoxels.of(batch, SIZE)
    rare = torch.zeros(len(batch.cells), dtype=torch.bool)
    weights = torch.zeros(len(made))
    weights[0] = 1
    kept = draw(batch, made, weights, rare, Counts(3, 2, 2), scan_generators(batch, 0, 0))
    assert (kept.cells[0] >= 0).any()
    assert (kept.cells[1:] == -1).all() and (kept.points[1:] == -1).all()


def test_supervoxels_are_drawn_by_their_weights() -> None:
    """Of three with weights 1, 2 and 5 the first draw takes the last five times in eight."""
    batch = made_batch(scans=1, points=3)
    coords = torch.tensor([[0, 0, 0, 0], [0, 6, 0, 0], [0, 12, 0, 0]], dtype=torch.int32)
    batch = with_coords(batch, coords)
    made = Supervoxels.of(batch, SIZE)
    weights, rare = torch.tensor([1.0, 2.0, 5.0]), torch.zeros(3, dtype=torch.bool)
    taken: Counter[int] = Counter()
    for step in range(400):
        kept = draw(batch, made, weights, rare, Counts(1, 1, 1), scan_generators(batch, 0, step))
        taken[int(kept.cells[0, 0])] += 1
    for cell, expected in enumerate([50, 100, 250]):
        assert abs(taken[cell] - expected) < 35  # over three standard deviations


def test_draws_follow_seed_step_and_scan_alone() -> None:
    batch = made_batch()
    logits = torch.zeros(len(batch.cells), CLASSES)
    counts = {"k": 2, "n_voxel": 3, "n_point": 4}
    learner = method(**counts)
    learner.begin_step(0.25)
    first = learner.drawn(batch, logits)
    torch.manual_seed(99)
    again = method(**counts)
    again.begin_step(0.25)
    second = again.drawn(batch, logits)
    assert torch.equal(first.cells, second.cells) and torch.equal(first.points, second.points)
    again.begin_step(0.5)
    assert not torch.equal(again.drawn(batch, logits).cells, first.cells)
    other = method(seed=1, **counts)
    other.begin_step(0.25)
    assert not torch.equal(other.drawn(batch, logits).cells, first.cells)
    alone = batch.take([1])
    own = learner.drawn(alone, logits[: len(alone.cells)])
    shift = torch.where(own.cells >= 0, batch.voxel_offsets[1], 0)
    assert torch.equal(own.cells + shift, first.cells[2:])

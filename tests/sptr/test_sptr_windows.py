"""Bins, windows and pairs against hand arithmetic."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch


def test_exponential_bins_by_hand():
    """Edges at 0, 1, 2, 4, 6, 10, 14, 22, 30, 46 (base 1): [0,1)->0 [1,2)->1 [2,4)->2 [4,6)->3 [6,10)->4 [10,14)->5."""
    from sptr import exponential_bins

    inner = [0, 0.5, 1, 1.9, 2, 3.9, 4, 5.9, 6, 9.9, 10, 13.9, 14, 21.9, 22, 30, 46]
    expected = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9]
    difference = torch.tensor(inner)
    assert exponential_bins(difference).tolist() == expected
    assert exponential_bins(-difference[1:]).tolist() == [-k - 1 for k in expected[1:]]
    assert exponential_bins(torch.tensor([-0.0])).tolist() == [0]


def test_exponential_bins_in_metres():
    """With a = 0.0125 m bin 22 covers 51.175..76.775 m and bin 23 (the last) 76.775..102.375 m."""
    from sptr import exponential_bins

    metres = torch.tensor([0.01, 0.02, 0.03, 0.06, 0.1, 0.15, 51.1, 51.2, 76.7, 76.8, 102.3, 102.4])
    assert exponential_bins(metres / 0.0125).tolist() == [0, 1, 2, 3, 4, 5, 21, 22, 22, 23, 23, 24]


def test_exponential_bins_follow_the_closed_form():
    """k0 = 2 floor(log2((m + 2a) / a)) - 2; k = k0 + [(3 2^(k0/2) - 2) a <= m], evaluated in float64."""
    from sptr import exponential_bins

    generator = torch.Generator().manual_seed(0)
    difference = (torch.rand(2000, generator=generator) - 0.5) * 16000
    expected = []
    for value in difference.tolist():
        k = 2 * math.floor(math.log2(abs(value) + 2)) - 2
        k += 3 * 2 ** (k / 2) - 2 <= abs(value)
        expected.append(k if value >= 0 else -k - 1)
    assert exponential_bins(difference).tolist() == expected


def test_relative_index_offsets_and_clamps():
    from sptr import relative_index

    query = torch.tensor([[0.0, 23.0, 0.0]])
    key = torch.tensor([[23.0, 0.0, 4.5]])
    assert relative_index(query, key, "cubic", 24).tolist() == [
        [0, 46, 19]
    ]  # -4.5 rounds to even: -4 + 23
    assert relative_index(query, key, "radial", 24).tolist() == [
        [0, 46, 20]
    ]  # -4.5 -> -(3) - 1 -> -4 + 24
    far = torch.tensor([[0.0, 0.0, 1e6]])
    assert relative_index(far, query, "radial", 24)[0, 2] == 47
    assert relative_index(query, far, "radial", 24)[0, 2] == 0


def test_spherical_coordinates_of_the_axes():
    from sptr import spherical

    got = spherical(
        torch.tensor([[1.0, 0, 0], [0, 2.0, 0], [0, -1.0, 0], [0, 0, 3.0], [0, 0, -1.0]])
    )
    expected = [[180, 90, 1], [270, 90, 2], [90, 90, 1], [180, 0, 3], [180, 180, 1]]
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_partition_by_hand():
    """Windows of 1 m; sample 1 starts at its own minimum (10.5) unless the batch's is asked for."""
    from sptr import partition

    coords = torch.tensor(
        [[0.0, 0, 0], [0.9, 0, 0], [1.2, 0, 0], [10.5, 0, 0], [11.4, 0, 0], [0.1, 0, 0]]
    )
    batch = torch.tensor([0, 0, 0, 1, 1, 0])
    order, ptr, inside = partition(coords, batch, 1.0)
    assert order.tolist() == [0, 1, 5, 2, 3, 4] and ptr.tolist() == [0, 3, 4, 6]
    np.testing.assert_allclose(inside[:, 0], [0, 0.9, 0.2, 0, 0.9, 0.1], atol=1e-6)
    assert partition(coords, batch, 1.0, origin="batch")[1].tolist() == [0, 3, 4, 5, 6]
    assert partition(coords, batch, 1.0, shift=True)[1].tolist() == [0, 2, 4, 5, 6]


def test_partition_groups_what_shares_a_cell():
    from sptr import partition

    generator = torch.Generator().manual_seed(0)
    coords, batch = torch.rand(500, 3, generator=generator) * 4, torch.arange(500) % 3
    order, ptr, _ = partition(coords, batch, (1.0, 0.5, 2.0))
    origins = torch.stack([coords[batch == b].amin(0) for b in range(3)])[batch]
    cells = torch.cat(
        [batch[:, None], torch.floor((coords - origins) / torch.tensor([1.0, 0.5, 2.0])).long()], 1
    )
    assert order.sort().values.tolist() == list(range(500))
    found = {tuple(cells[order[a]].tolist()) for a in ptr[:-1]}
    assert len(found) == len(ptr) - 1 == len(torch.unique(cells, dim=0))
    for begin, end in pairwise(ptr):
        assert len(torch.unique(cells[order[begin:end]], dim=0)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"window": 0.0},
        {"kind": "cube"},
        {"origin": "world"},
        {"levels": 0},
        {"base": 0.0},
        {"window": 1e-30},
    ],
)
def test_bad_windows_are_named(change):
    from sptr import window_index

    arguments = {"window": 1.0, "quant": 0.25, "levels": 4} | change
    with pytest.raises(ValueError, match=r"^sptr: "):
        window_index(
            torch.rand(4, 3) + torch.arange(4)[:, None],
            torch.zeros(4, dtype=torch.long),
            **arguments,
        )


def test_coordinates_that_are_not_finite_are_refused():
    from sptr import partition

    with pytest.raises(ValueError, match="finite"):
        partition(
            torch.tensor([[0.0, 0, 0], [torch.nan, 0, 0]]), torch.zeros(2, dtype=torch.long), 1.0
        )


def test_window_index_positions_by_hand():
    from sptr import window_index

    coords = torch.tensor([[0.0, 0, 0], [0.26, 0.99, 0], [1.5, 0, 0]])
    batch = torch.zeros(3, dtype=torch.long)
    index = window_index(coords, batch, 1.0, 0.25, levels=4)
    assert index.positions.tolist() == [[0, 0, 0], [1, 3, 0], [2, 0, 0]] and index.table_length == 7
    polar = torch.tensor([[0.0, 0, 5.0], [0.3, 0, 2.5]])
    radial = window_index(polar, batch[:2], (1, 1, 120), 0.25, levels=4, kind="radial", base=0.5)
    assert radial.positions.tolist() == [[0, 0, 10], [1, 0, 5]] and radial.table_length == 8


def test_pair_layout_example():
    """Windows of 2 and 1 tokens: 5 pairs."""
    from sptr import pair_layout

    index_0, offsets_0, n_max, index_1, offsets_1 = pair_layout(torch.tensor([2, 1]))
    assert index_0.tolist() == [0, 0, 1, 1, 2] and index_1.tolist() == [0, 1, 0, 1, 2]
    assert offsets_0.tolist() == [0, 2, 4, 5] and offsets_1.tolist() == [0, 1, 4] and n_max == 2


def test_get_indices_params_and_grid_sample():
    from sptr import get_indices_params, grid_sample

    xyz = torch.tensor([[0.0, 0, 0], [5.0, 0, 0], [0.5, 0, 0]])
    batch = torch.zeros(3, dtype=torch.long)
    index_0, offsets_0, n_max, index_1, offsets_1, sort_idx = get_indices_params(xyz, batch, 1.0)
    assert sort_idx.tolist() == [0, 2, 1] and n_max == 2
    assert index_0.tolist() == [0, 0, 1, 1, 2] and index_1.tolist() == [0, 1, 0, 1, 2]
    assert offsets_0.tolist() == [0, 2, 4, 5] and offsets_1.tolist() == [0, 1, 4]
    cluster, p2v, counts = grid_sample(xyz, batch, 1.0)
    assert (
        cluster.tolist() == [0, 1, 0]
        and counts.tolist() == [2, 1]
        and p2v.tolist() == [[0, 2], [1, 0]]
    )


def test_to_3d_numpy_copies():
    from sptr import to_3d_numpy

    size = np.array([1.0, 2.0, 3.0])
    copy = to_3d_numpy(size)
    copy *= 2
    assert size.tolist() == [1, 2, 3] and to_3d_numpy(0.5).tolist() == [0.5] * 3

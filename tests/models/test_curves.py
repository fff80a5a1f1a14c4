"""Curves that fill space: every cell once, neighbours in a row, and cells of twice the edge in one piece."""

from __future__ import annotations

import pytest
import torch

from core.errors import UserError
from core.models.lidar.curves import AXIS_BITS, CURVES, curve_codes, hilbert_code, morton_code

BITS = 3


def cube(bits: int = BITS) -> torch.Tensor:
    side = torch.arange(1 << bits)
    return torch.cartesian_prod(side, side, side)


def test_morton_by_hand() -> None:
    xyz = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [2, 0, 0], [3, 1, 2]])
    assert morton_code(xyz).tolist() == [4, 2, 1, 32, 0b101_110]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_hilbert_passes_each_cell_once_and_steps_to_a_neighbour(bits: int) -> None:
    cells = cube(bits)
    code = hilbert_code(cells, bits)
    assert sorted(code.tolist()) == list(range(len(cells)))
    steps = cells[code.argsort()].diff(dim=0).abs().sum(1)
    assert (steps == 1).all()


@pytest.mark.parametrize("curve", range(len(CURVES)))
def test_a_code_without_its_last_bits_is_that_of_the_larger_cell(curve: int) -> None:
    made = torch.Generator().manual_seed(0)
    xyz = torch.randint(0, 1 << AXIS_BITS, (500, 3), generator=made)
    coords = torch.cat([torch.randint(0, 4, (500, 1), generator=made), xyz], 1).int()
    code = curve_codes(coords)[curve]
    assert torch.equal(code >> 3 * AXIS_BITS, coords[:, 0].long()), "scans stay apart"
    inside = cube(1)[torch.randint(0, 8, (500,), generator=made)]
    sibling = coords.clone()
    sibling[:, 1:] = (coords[:, 1:] & -2) + inside.int()
    assert torch.equal(curve_codes(sibling)[curve] >> 3, code >> 3)


def test_the_exchanged_curves_exchange_x_and_y() -> None:
    xyz = cube(2)
    coords = torch.cat([torch.zeros(len(xyz), 1, dtype=torch.int64), xyz], 1)
    turned = coords[:, [0, 2, 1, 3]]
    plain, other = curve_codes(coords), curve_codes(turned)
    assert torch.equal(plain[[0, 2]], other[[1, 3]]) and not torch.equal(plain[0], plain[1])


@pytest.mark.parametrize("wrong", [[0, -1, 0, 0], [0, 0, 1 << AXIS_BITS, 0]])
def test_a_scan_too_large_is_refused(wrong: list[int]) -> None:
    with pytest.raises(UserError, match=r"along an axis.*point_range"):
        curve_codes(torch.tensor([[0, 0, 0, 0], wrong]))

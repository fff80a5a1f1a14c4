"""Compiled passes of inference: each against torch in float64, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.fast import plain, rectified
from core.fast.bits import bfloat16_bits, from_bits, to_bits
from core.fast.cell_max import Largest
from core.fast.gating import weigh_
from core.fast.twice import GROUPS, sample_twice
from core.sparse.checks import InvalidInput

BFLOAT = 2**-8  # the largest rounding


# --- bits -----------------------------------------------------------------------------------------------------------
def test_bits_are_those_of_bfloat16() -> None:
    x = torch.cat([torch.randn(500), torch.tensor([0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 3e38])])
    x = torch.cat([x, torch.tensor([torch.inf, -torch.inf, torch.nan])])
    found = [to_bits(np.float32(value)) for value in x.tolist()]
    assert np.array_equal(np.array(found, np.uint16)[:-1], bfloat16_bits(x.bfloat16())[:-1])
    back = torch.tensor([from_bits(np.uint16(bits)) for bits in found])
    torch.testing.assert_close(back, x.bfloat16().float(), rtol=0, atol=0, equal_nan=True)


# --- upsampling -----------------------------------------------------------------------------------------------------
def interpolated(x: Tensor, offset: Tensor, closed: bool) -> Tensor:
    """Each place by itself: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
    batch, height, width, channels = x.shape
    found = x.new_zeros(batch, 2 * height, 2 * width, channels)
    size = channels // GROUPS
    for b, i, j in np.ndindex(batch, height, width):
        for group, sub in np.ndindex(GROUPS, 4):
            part = slice(group * size, (group + 1) * size)
            across, along = offset[b, i, j].view(2, GROUPS, 4)[:, group, sub].tolist()
            row = min(max(i + along, 0), height - 1)
            column = j + across if closed else min(max(j + across, 0), width - 1)
            value = x.new_zeros(size)
            for v in (int(np.floor(row)), int(np.floor(row)) + 1):
                for u in (int(np.floor(column)), int(np.floor(column)) + 1):
                    share = (1 - abs(row - v)) * (1 - abs(column - u))
                    value += share * x[b, min(v, height - 1), u % width, part]
            found[b, 2 * i + sub // 2, 2 * j + sub % 2, part] = value
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("closed", [True, False])
def test_upsampling_reads_between_pixels(closed: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, offset = torch.randn(2, 3, 4, 8), 3 * torch.randn(2, 3, 4, 2 * GROUPS * 4)
    target = torch.full((2, 7, 11, 13), 9.0, dtype=dtype)
    sample_twice(x, offset, target, (1, 4), closed=closed)
    expected = interpolated(x.double(), offset.double(), closed)
    tolerance = 1e-5 if dtype == torch.float32 else 4 * BFLOAT
    torch.testing.assert_close(target[:, :6, 1:9, 4:12].double(), expected, rtol=0, atol=tolerance)
    target[:, :6, 1:9, 4:12] = 9
    assert bool((target == 9).all()), "nothing else is written"


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("place", [torch.nan, torch.inf, -torch.inf])
def test_upsampling_at_no_place_is_safe(closed: bool, place: float) -> None:
    x, target = torch.randn(1, 2, 3, 4), torch.zeros(1, 4, 6, 4)
    offset = torch.full((1, 2, 3, 2 * GROUPS * 4), place)
    sample_twice(x, offset, target, (0, 0), closed=closed)
    if np.isnan(place):
        assert bool(target.isnan().all())


def test_upsampling_refuses_what_does_not_fit() -> None:
    x, offset = torch.randn(1, 2, 3, 4), torch.zeros(1, 2, 3, 2 * GROUPS * 4)
    for shape, corner in [((1, 3, 6, 4), (0, 0)), ((1, 4, 6, 4), (1, 0)), ((1, 4, 6, 4), (0, 1))]:
        with pytest.raises(InvalidInput, match="a target of"):
            sample_twice(x, offset, torch.zeros(shape), corner, closed=True)
    with pytest.raises(InvalidInput, match="float16"):
        sample_twice(x, offset, torch.zeros(1, 4, 6, 4).half(), (0, 0), closed=True)
    with pytest.raises(InvalidInput, match="offsets"):
        sample_twice(x, offset[:, :1], torch.zeros(1, 4, 6, 4), (0, 0), closed=True)


# --- weighing -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_weighing_is_a_product(dtype: torch.dtype) -> None:
    x = torch.randn(2, 5, 3, dtype=dtype)
    wide = torch.promote_types(dtype, torch.float32)
    place, channel, whole = (torch.rand(shape, dtype=wide) for shape in ((2, 5), (2, 3), (2,)))
    weight = whole.double()[:, None, None] + place.double()[..., None] * channel.double()[:, None]
    expected = x.double() * weight
    found = weigh_(x, place, channel, whole)
    assert found.data_ptr() == x.data_ptr()
    tolerance = BFLOAT if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)


def test_weighing_refuses_other_sizes() -> None:
    with pytest.raises(InvalidInput, match="places"):
        weigh_(torch.ones(1, 4, 2), torch.ones(1, 3), torch.ones(1, 2), torch.ones(1))


# --- the largest of parts -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_parts_have_the_maximum_of_the_whole(dtype: torch.dtype) -> None:
    values, of_row = torch.randn(50, 3).to(dtype), torch.randint(0, 9, (50,))
    values[7, 1] = torch.nan
    values[of_row == 4] = -torch.inf
    largest = Largest(12)
    for part, rows in zip(values.split(13), of_row.split(13)):
        largest.add(part, rows)
    found = largest.found()
    assert found.dtype is dtype
    expected = plain.cell_max(values.double(), of_row, 12).to(dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_parts_are_checked() -> None:
    with pytest.raises(InvalidInput, match="no rows"):
        Largest(3).found()
    with pytest.raises(InvalidInput, match="cells of the rows"):
        Largest(3).add(torch.ones(2, 2), torch.tensor([0, 3]))


# --- rectifiers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rectified_layers(
    dtype: torch.dtype, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not enabled:
        monkeypatch.setattr(rectified, "_in_one_pass", lambda *_: False)
    x, weight, bias = (torch.randn(s, dtype=dtype) for s in ((2, 5, 6, 7), (4, 5, 3, 3), (4,)))
    expected = F.leaky_relu(
        F.conv2d(x.double(), weight.double(), bias.double(), padding=(1, 0)), 0.01
    )
    rows, matrix = x.movedim(1, 3).reshape(-1, 5), weight[..., 0, 0]
    product = F.linear(rows.double(), matrix.double(), bias.double()).relu()
    found = rectified.leaky_conv(x, weight, bias, (1, 0), 0.01)
    flat = rectified.relu_linear(rows, matrix, bias)
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(flat.double(), product, rtol=0, atol=tolerance)

"""Means of unit features over regions, against enlarged maps in float64, and the plain twin against the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.fast import plain
from core.fast.region_mean import region_mean
from core.sparse.checks import InvalidInput

FUNCTIONS = [region_mean, plain.region_mean]
COUNT = 12


def dense(maps: Tensor, region: Tensor, count: int) -> Tensor:
    """By the definition, in float64; one region after another."""
    raised = F.interpolate(maps, region.shape[1:], mode="bilinear", align_corners=True)
    unit = raised / raised.norm(dim=1, keepdim=True).clamp_min(1e-12)
    means = []
    for number in range(count):
        own = unit.permute(0, 2, 3, 1)[region == number]
        means.append(own.sum(0) / (len(own) + 1e-6))
    return torch.stack(means)


def scene(size: tuple[int, int], of_map: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Three images whose regions have ragged borders; some pixels have none, some regions no pixel."""
    rng = torch.Generator().manual_seed(size[0])
    maps = torch.randn(3, 5, *of_map, generator=rng)
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    blocks = (rows * 2 // size[0]) * 2 + (columns * 2 // size[1])
    region = blocks + 4 * torch.arange(3)[:, None, None] - 1
    ragged = torch.rand(region.shape, generator=rng) < 0.1
    region[ragged] = torch.randint(-1, COUNT - 2, (int(ragged.sum()),), generator=rng)
    region[region == 3] = 4
    return maps, region


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("size", "of_map"),
    [
        ((32, 48), (8, 12)),
        ((17, 23), (5, 6)),
        ((9, 9), (1, 1)),
        ((6, 5), (13, 11)),
        ((1, 7), (3, 1)),
    ],
)
def test_means_and_gradients_are_those_of_the_enlarged_map(
    function: Callable[..., Tensor], size: tuple[int, int], of_map: tuple[int, int]
) -> None:
    maps, region = scene(size, of_map)
    maps.requires_grad_()
    wide = maps.detach().double().requires_grad_()
    found, expected = function(maps, region, COUNT), dense(wide, region, COUNT)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
    assert (found[3] == 0).all() and found.abs().max() > 0.1
    weights = torch.randn(COUNT, 5, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((found * weights).sum(), maps)
    (reference,) = torch.autograd.grad((expected * weights).sum(), wide)
    scale = float(reference.abs().max())
    torch.testing.assert_close(gradient.double(), reference, rtol=1e-3, atol=1e-4 * scale)


def test_the_order_in_memory_plays_no_part() -> None:
    maps, region = scene((32, 48), (8, 12))
    last = maps.contiguous(memory_format=torch.channels_last)
    assert torch.equal(region_mean(maps, region, COUNT), region_mean(last, region, COUNT))


def test_vectors_of_length_nothing() -> None:
    """They add nothing, have no direction, and a finite gradient."""
    maps = torch.zeros(1, 4, 3, 3)
    maps[0, 0, :, 2] = 2
    maps.requires_grad_()
    region = torch.zeros(1, 9, 9, dtype=torch.int64)
    found = region_mean(maps, region, 1)
    torch.testing.assert_close(found, torch.tensor([[4 / 9, 0, 0, 0]]))
    (gradient,) = torch.autograd.grad(found[0, 1:].sum(), maps)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("maps", "region", "what"),
    [
        (torch.zeros(1, 2, 3, 3), torch.full((1, 4, 4), 5), "the regions"),
        (torch.zeros(1, 2, 3, 3), torch.full((1, 4, 4), -2), "the regions"),
        (torch.zeros(2, 2, 3, 3), torch.zeros(1, 4, 4, dtype=torch.int64), "the regions"),
        (torch.zeros(1, 2, 3, 3).double(), torch.zeros(1, 4, 4, dtype=torch.int64), "maps"),
        (torch.zeros(1, 2, 0, 3), torch.zeros(1, 4, 4, dtype=torch.int64), "hold nothing"),
    ],
)
def test_what_would_be_read_beyond_its_end_is_refused(
    maps: Tensor, region: Tensor, what: str
) -> None:
    with pytest.raises(InvalidInput, match=what):
        region_mean(maps, region, 5)

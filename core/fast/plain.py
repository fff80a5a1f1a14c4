"""What the functions of this room compute, written as one would write it first; tests compare the two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.sparse.points import GatherTable, gather_sum

__all__ = [
    "cell_max",
    "closeness",
    "neighbour_votes",
    "norm_relu_conv",
    "norm_relu_conv_at_points",
    "pointwise_conv",
    "region_mean",
]

REGION_EPSILON = 1e-6  # added to the number of pixels of a region, as SLidR has it


def pointwise_conv(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve with a 1x1 kernel [cout, cin, 1, 1]: [N, cin, H, W] -> [N, cout, H, W]."""
    return F.conv2d(x, kernel, bias)


def norm_relu_conv(x: Tensor, norm: nn.Module, conv: nn.Conv2d) -> Tensor:
    """Normalise, rectify and convolve: [N, cin, H, W] -> [N, cout, H, W]."""
    return conv(F.relu(norm(x), inplace=True))


def norm_relu_conv_at_points(
    x: Tensor, norm: nn.Module, conv: nn.Conv2d, table: GatherTable
) -> Tensor:
    """Normalise and rectify a map [N, cin, H, W], gather a kernel's taps at R points, multiply: [R, cout].

    Args:
        table: pixels -> taps, R * k * k rows ordered by point, tap row, tap column.
    """
    pixels = F.relu(norm(x)).permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    kernel = conv.weight.permute(2, 3, 1, 0).reshape(-1, conv.out_channels)
    taps = gather_sum(pixels, table).view(-1, len(kernel))
    return taps @ kernel.to(taps.dtype)


def cell_max(values: Tensor, of_row: Tensor, cells: int) -> Tensor:
    """Scatter the rows of each cell, keep the largest: [N, C] -> [cells, C]; 0 in a cell without rows."""
    index = of_row[:, None].expand(-1, values.shape[1])
    empty = values.new_zeros(cells, values.shape[1])
    return empty.scatter_reduce(0, index, values, "amax", include_self=False)


def closeness(search: int, sigma: float) -> Tensor:
    """F32 [search, search]: 1 - g, a Gaussian of ``sigma`` px about the middle whose sum is 1."""
    steps = torch.arange(search, dtype=torch.float64) - search // 2
    line = torch.exp(-steps.square() / (2 * sigma**2))
    window = line[:, None] * line
    return (1 - window / window.sum()).float()


def neighbour_votes(
    ranges: Tensor,
    classes: Tensor,
    pixels: Tensor,
    own: Tensor,
    *,
    num_classes: int,
    search: int,
    neighbours: int,
    sigma: float,
    cutoff: float,
) -> Tensor:
    """Gather each point's window, sort it by distance, count the classes of the nearest: f32 [N, num_classes]."""
    half = search // 2
    step = torch.arange(search, device=ranges.device)
    image = pixels[:, 0, None, None]
    row = pixels[:, 1, None, None] + step[:, None]
    column = pixels[:, 2, None, None] + step
    border = (half, half, half, half)
    window = F.pad(ranges, border, value=torch.inf)[image, row, column]
    names = F.pad(classes, border)[image, row, column].flatten(1)
    window[:, half, half] = own
    away = (window - own[:, None, None]).abs() * closeness(search, sigma).to(ranges.device)
    near, order = away.flatten(1).sort(dim=1, stable=True)
    nearest = names.gather(1, order)[:, :neighbours]
    voting = (near <= cutoff)[:, :neighbours]
    votes = torch.zeros(len(pixels), num_classes, device=ranges.device)
    return votes.scatter_add(1, nearest, voting.float())


def region_mean(maps: Tensor, region: Tensor, count: int) -> Tensor:
    """Enlarge maps [N, C, h, w], bring pixels to length 1, average those of each region [N, H, W]: [count, C]."""
    raised = F.interpolate(maps, region.shape[1:], mode="bilinear", align_corners=True)
    unit = F.normalize(raised, dim=1).permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
    of_pixel = region.flatten()
    pixel = (of_pixel >= 0).nonzero()[:, 0]
    group = of_pixel.index_select(0, pixel)
    sizes = torch.zeros(count, device=maps.device)
    sizes.scatter_add_(0, group, torch.ones_like(group, dtype=torch.float32))
    weight = 1.0 / (sizes.index_select(0, group) + REGION_EPSILON)
    table = GatherTable.from_entries(group, pixel, weight, count, len(unit))
    return gather_sum(unit, table)

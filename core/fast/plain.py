"""What the functions of this room compute, written as one would write it first; tests compare the two."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from core.sparse.points import GatherTable, gather_sum

__all__ = ["norm_relu_conv", "norm_relu_conv_at_points", "pointwise_conv"]


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

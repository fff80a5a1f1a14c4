"""Layers of the image branch; what makes them cheap stands in ``core.fast``."""

from __future__ import annotations

from torch import Tensor, nn

from core.fast.conv2d import norm_relu_conv, norm_relu_conv_at_points, pointwise_conv
from core.sparse.points import GatherTable

__all__ = ["NormReluConv", "Pointwise"]


class Pointwise(nn.Conv2d):
    """1x1 convolution."""

    def __init__(self, cin: int, cout: int, bias: bool = True) -> None:
        super().__init__(cin, cout, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, cin, H, W], best channels last in memory -> [N, cout, H, W], channels last."""
        return pointwise_conv(x, self.weight, self.bias)


class NormReluConv(nn.Sequential):
    """BN - ReLU - convolution without bias.

    Args:
        cin, cout: channels.
        kernel: odd.
        momentum: of the statistics.
    """

    def __init__(self, cin: int, cout: int, kernel: int = 1, momentum: float = 0.1) -> None:
        conv: nn.Conv2d
        if kernel == 1:
            conv = Pointwise(cin, cout, bias=False)
        else:
            conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(nn.BatchNorm2d(cin, momentum=momentum), nn.ReLU(inplace=True), conv)
        self.kernel = kernel

    @property
    def conv(self) -> nn.Conv2d:
        """The last of the three layers."""
        *_, conv = self
        assert isinstance(conv, nn.Conv2d), "as built above"
        return conv

    def forward(self, x: Tensor) -> Tensor:
        """[N, cin, H, W] -> [N, cout, H, W]."""
        norm, _, _ = self
        return norm_relu_conv(x, norm, self.conv)

    def at_points(self, x: Tensor, table: GatherTable) -> Tensor:
        """What reading the result at points gives, without making it elsewhere: [N, cin, H, W] -> [R, cout].

        Args:
            table: pixels -> interpolated tap at each (point, tap), R * k * k rows; see ``PixelLinks.taps``.
        """
        norm, _, _ = self
        return norm_relu_conv_at_points(x, norm, self.conv, table)

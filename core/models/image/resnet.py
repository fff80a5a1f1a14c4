"""ResNet encoders that run stage by stage (He et al., CVPR 2016), with torchvision's key names."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from core.models.image.weights import load_encoder, read_weights

__all__ = ["RESNETS", "ResNet"]

RESNETS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
}  # blocks of layer1..4


class Block(nn.Module):
    """Residual block without its last ReLU; two 3x3 convolutions, or (``bottleneck``) 1x1, 3x3 and 1x1 to four times
    the width."""

    def __init__(self, cin: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        cout = 4 * width if bottleneck else width
        kernels, widths = (
            ((1, 3, 1), (cin, width, width, cout)) if bottleneck else ((3, 3), (cin, width, cout))
        )
        self.depth = len(kernels)
        for i, kernel in enumerate(kernels, 1):
            step = (
                stride if i == (2 if bottleneck else 1) else 1
            )  # torchvision: the 3x3 one, or the first
            conv = nn.Conv2d(
                widths[i - 1], widths[i], kernel, step, padding=kernel // 2, bias=False
            )
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(widths[i]))
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, cin, H, W] -> [N, cout, H / stride, W / stride], to be rectified by the caller."""
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = F.relu(y, inplace=True)
        return y.add_(x if self.downsample is None else self.downsample(x))


class ResNet(nn.Module):
    """ResNet-18, -34 or -50 without its classifier.

    Args:
        name: a key of ``RESNETS``.
        stem_stride: of the 7x7 convolution; 1 puts the stages at strides 2, 4, 8, 16, and 2 at 4, 8, 16, 32.
        preactivation: stages also return their sum before the last ReLU, in place of the rectified one.

    Attributes:
        channels: of the four stages.
    """

    def __init__(self, name: str, stem_stride: int = 1, preactivation: bool = False) -> None:
        super().__init__()
        bottleneck, self.preactivation = name == "resnet50", preactivation
        self.conv1 = nn.Conv2d(3, 64, 7, stem_stride, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        cin, channels = 64, []
        for i, blocks in enumerate(RESNETS[name]):
            width, layer = 64 << i, []
            for j in range(blocks):
                layer.append(Block(cin, width, 2 if i and not j else 1, bottleneck))
                cin = 4 * width if bottleneck else width
            setattr(self, f"layer{i + 1}", nn.Sequential(*layer))
            channels.append(cin)
        self.channels = tuple(channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stem(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 64, H / 2, W / 2] (``stem_stride`` 1)."""
        x = F.max_pool2d(self.bn1(self.conv1(images)), 3, 2, 1)
        return F.relu(x, inplace=True)  # commutes with the maximum, on a quarter of the pixels

    def stage(self, i: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Layer ``i + 1``: (rectified, skip), [N, channels[i], H', W'] each; one tensor unless ``preactivation``."""
        layer = getattr(self, f"layer{i + 1}")
        for j, block in enumerate(layer):
            raw = block(x)
            keep = self.preactivation and j == len(layer) - 1
            x = F.relu(raw, inplace=not keep)
        return x, raw if self.preactivation else x

    def load_pretrained(self, path: Path) -> None:
        """ImageNet weights under torchvision's names (conv1, bn1, layer1..4); the classifier ``fc`` is dropped.

        Raises:
            UserError: see :func:`load_encoder`.
        """
        load_encoder(self, read_weights(path), path, dropped=("fc.",))

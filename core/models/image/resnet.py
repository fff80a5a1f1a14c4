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

    def __init__(
        self, cin: int, width: int, stride: int, bottleneck: bool, dilation: int = 1
    ) -> None:
        super().__init__()
        if bottleneck:
            cout = 4 * width
            widths = [width, width, cout]
            kernels = [1, 3, 1]
            strides = [1, stride, 1]  # as torchvision has it: at the 3x3 convolution
        else:
            cout = width
            widths = [width, cout]
            kernels = [3, 3]
            strides = [stride, 1]
        self.depth = len(kernels)
        before = cin
        for i, after in enumerate(widths):
            kernel = kernels[i]
            step = dilation if kernel == 3 else 1
            reach = kernel // 2 * step
            conv = nn.Conv2d(before, after, kernel, strides[i], reach, step, bias=False)
            setattr(self, f"conv{i + 1}", conv)
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(after))
            before = after
        self.downsample: nn.Sequential | None = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[N, cin, H, W] -> [N, cout, H / stride, W / stride], to be rectified by the caller."""
        y = x
        for i in range(1, self.depth + 1):
            conv = getattr(self, f"conv{i}")
            norm = getattr(self, f"bn{i}")
            y = norm(conv(y))
            if i < self.depth:
                y = F.relu(y, inplace=True)
        if self.downsample is not None:
            x = self.downsample(x)
        return y.add_(x)


class ResNet(nn.Module):
    """ResNet-18, -34 or -50 without its classifier.

    Args:
        name: a key of ``RESNETS``.
        stem_stride: of the 7x7 convolution; 1 puts the stages at strides 2, 4, 8, 16, and 2 at 4, 8, 16, 32.
        preactivation: stages also return their sum before the last ReLU, in place of the rectified one.
        dilated: the last three stages keep the size of the first one's map, and their 3x3 convolutions reach as far
            as if they had not; as torchvision's ``replace_stride_with_dilation`` has it, the first block of a stage
            still reaches as far as the stage before.

    Attributes:
        channels: of the four stages.
    """

    def __init__(
        self,
        name: str,
        stem_stride: int = 1,
        preactivation: bool = False,
        dilated: bool = False,
    ) -> None:
        super().__init__()
        bottleneck = name == "resnet50"
        self.preactivation = preactivation
        self.conv1 = nn.Conv2d(3, 64, 7, stem_stride, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        cin = 64
        channels = []
        for i, count in enumerate(RESNETS[name]):
            width = 64 << i
            cout = 4 * width if bottleneck else width
            stride = 2 if i > 0 and not dilated else 1
            dilation = 1 << i if dilated else 1
            blocks = [Block(cin, width, stride, bottleneck, max(dilation // 2, 1))]
            for _ in range(count - 1):
                blocks.append(Block(cout, width, 1, bottleneck, dilation))
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            channels.append(cout)
            cin = cout
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
        if self.preactivation:
            return x, raw
        return x, x

    def load_pretrained(self, path: Path) -> None:
        """ImageNet weights under torchvision's names (conv1, bn1, layer1..4); the classifier ``fc`` is dropped.

        Raises:
            UserError: see :func:`load_encoder`.
        """
        load_encoder(self, read_weights(path), path, dropped=("fc.",))

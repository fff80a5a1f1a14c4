"""Camera to LiDAR: gated fusion of image features into point features, and the head that reads images at points."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models.layers import PointBatchNorm

__all__ = ["C2L", "PixelHead"]


class Attention(nn.Module):
    """``gate * ReLU(BN(W f))`` with ``gate = sigmoid(w3 tanh(W1 ReLU(BN(f)) + W2 p))``, one number per point."""

    def __init__(self, image: int, points: int) -> None:
        super().__init__()
        hidden = points // 4
        self.conv1 = nn.Sequential(
            nn.Linear(image, points), PointBatchNorm(points), nn.ReLU(inplace=True)
        )
        self.norm = PointBatchNorm(image)
        self.fc1 = nn.Linear(image, hidden)
        self.fc2 = nn.Linear(points, hidden)
        self.fc3 = nn.Linear(hidden, 1)

    def forward(self, f: Tensor, p: Tensor) -> Tensor:
        """Image features [P, image] and point features [P, points] -> [P, points]."""
        gate = torch.sigmoid(self.fc3(torch.tanh(self.fc1(F.relu(self.norm(f))) + self.fc2(p))))
        return gate * self.conv1(f)


class C2L(nn.Module):
    """``ReLU(BN(Wo [p ; gated image features]))``.

    Args:
        image, points: channels of the two; the result has those of the points.
    """

    def __init__(self, image: int, points: int) -> None:
        super().__init__()
        self.ai_layer = Attention(image, points)
        self.conv1 = nn.Linear(2 * points, points)
        self.bn1 = PointBatchNorm(points)

    def forward(self, p: Tensor, f: Tensor) -> Tensor:
        """Point features [P, points] and image features [P, image] -> [P, points]."""
        gated = self.ai_layer(f, p)
        both = torch.cat([p.to(gated.dtype), gated], 1)
        return F.relu(self.bn1(self.conv1(both)))


class PixelHead(nn.Module):
    """BN - ReLU - Linear without bias, of decoded image features."""

    def __init__(self, image: int, num_classes: int) -> None:
        super().__init__()
        self.norm = PointBatchNorm(image)
        self.linear = nn.Linear(image, num_classes, bias=False)

    def adapt_to(self, names: Collection[str]) -> None:
        """Take on a bias if weights of these names have one: those of earlier versions of this project do."""
        if "linear.bias" in names and self.linear.bias is None:
            weight = self.linear.weight
            self.linear.bias = nn.Parameter(weight.new_zeros(len(weight)))

    def forward(self, f: Tensor) -> Tensor:
        """Features [R, image] -> logits [R, num_classes]."""
        logits: Tensor = self.linear(F.relu(self.norm(f)))
        return logits

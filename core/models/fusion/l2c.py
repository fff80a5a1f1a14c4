"""LiDAR to camera: point features drawn into the images at several scales, and their gated fusion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models.image.layers import Pointwise
from core.models.image.sampling import PixelLinks
from core.models.image.swiftnet import upsample
from core.sparse import gather_sum

__all__ = ["L2C", "draw_points", "grid_sizes"]


def grid_sizes(size: tuple[int, int], scales: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows and columns of the grid of each scale c: ``round(H / c + 0.01)``, ``round(W / c + 0.01)``, at least 1."""
    height, width = size
    grids = []
    for scale in scales:
        rows = max(1, round(height / scale + 0.01))
        columns = max(1, round(width / scale + 0.01))
        grids.append((rows, columns))
    return grids


def draw_points(
    p: Tensor, links: PixelLinks, size: tuple[int, int], scales: tuple[int, ...]
) -> Tensor:
    """Mean of the points in each cell of a coarser and coarser grid, brought to one size and averaged over the grids.

    One gather fills the cells of all scans, cameras and scales; cells without points, and cameras that see none, are 0.

    Args:
        p: [SV, C] point features.
        links: where they are.
        size: (H, W) of the map.
        scales: cells per pixel edge, 1 first.

    Returns:
        [I * K, C, H, W], channels last in memory.
    """
    sizes = grid_sizes(size, scales)
    lengths = [links.images * rows * columns for rows, columns in sizes]
    grids = gather_sum(p, links.cells(sizes)).split(lengths)
    maps = []
    for cells, (rows, columns) in zip(grids, sizes):
        drawn = cells.view(links.images, rows, columns, p.shape[1])
        maps.append(drawn.permute(0, 3, 1, 2))
    total = maps[0]
    for coarse in maps[1:]:
        total = total + upsample(coarse, size)
    return total / len(maps)


class Attention(nn.Module):
    """``gate * ReLU(BN(W m))`` with ``gate = sigmoid(w3 tanh(W1 f + W2 m))``, one number per pixel."""

    def __init__(self, image: int, points: int) -> None:
        super().__init__()
        hidden = image // 4
        self.conv1 = nn.Sequential(
            Pointwise(points, image), nn.BatchNorm2d(image), nn.ReLU(inplace=True)
        )
        self.fc1, self.fc2 = Pointwise(image, hidden), Pointwise(points, hidden)
        self.fc3 = Pointwise(hidden, 1)

    def forward(self, f: Tensor, m: Tensor) -> Tensor:
        """Image features [N, image, H, W] and drawn points [N, points, H, W] -> [N, image, H, W]."""
        gate = torch.sigmoid(self.fc3(torch.tanh(self.fc1(f) + self.fc2(m))))
        return gate * self.conv1(m)


class L2C(nn.Module):
    """``BN(conv1x1 [f ; gated LiDAR features])``.

    Args:
        image, points: channels of the two; the result has those of the image.
    """

    def __init__(self, image: int, points: int) -> None:
        super().__init__()
        self.l2c_ai_layer = Attention(image, points)
        self.conv1, self.bn1 = Pointwise(2 * image, image), nn.BatchNorm2d(image)

    def forward(self, f: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        """Image features [N, image, H, W], drawn points [N, points, H, W] -> (rectified, as it is)."""
        gated = self.l2c_ai_layer(f, m)
        fused = self.bn1(self.conv1(torch.cat([f, gated.to(f.dtype)], 1)))
        return F.relu(fused), fused

"""Networks of cylinders at the points: what each point brings into its cell, and Cylinder3D's head for points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from core.contracts import Batch
from core.data.mapping import gather_rows
from core.data.partitions.cylinder import Cylinder
from core.errors import UserError
from core.fast.cell_max import cell_max
from core.models.layers import PointBatchNorm
from core.models.lidar.perceptron import Perceptron

__all__ = ["GEOMETRY", "PointHead", "PointNetwork", "cylinder_of", "perceptron", "point_inputs"]

GEOMETRY = 8  # values per point before the other features
_POSITION = 3  # of data.features, its first
_HIDDEN = (64, 128, 256)


def cylinder_of(batch: Batch) -> Cylinder:
    """The grid of a batch's cells.

    Raises:
        UserError: they are no cylinder with bounds.
    """
    partition = batch.cells.partition
    if not isinstance(partition, Cylinder) or partition.cell is not None:
        raise UserError(
            "the network needs a grid with bounds",
            where="data.partition",
            cure="Write bins, low and high in place of cell",
        )
    return partition


def point_inputs(batch: Batch, rows: Tensor) -> Tensor:
    """F32 [P, GEOMETRY + others] of points that have a cell (section 3.2 of the paper, as published).

    Offset of (range, azimuth, height) from the centre of the point's cell, (range, azimuth, height), (x, y), all about
    the scanner in m and rad; then the columns of ``data.features`` behind ``xyz``. A point beyond the grid, which lies
    in a border cell, keeps its own place, and so has a large offset.

    Args:
        rows: i64 [P] of points.

    Raises:
        UserError: ``data.features`` does not begin with ``xyz``, or the cells are no grid with bounds.
    """
    if batch.features[:1] != ("xyz",):
        raise UserError(
            f"data.features are {', '.join(batch.features)}; the network needs xyz first",
            where="data.features",
            cure="Write features: [xyz, intensity]",
        )
    grid = cylinder_of(batch)
    cells = batch.cells.coords.index_select(0, batch.cells.of_point.index_select(0, rows)).long()
    origin = batch.origins.index_select(0, cells[:, 0])
    xyz = batch.points["xyz"].index_select(0, rows) - origin
    x, y, z = xyz.unbind(1)
    polar = torch.stack([torch.hypot(x, y), torch.atan2(y, x), z], 1)
    unit = xyz.new_tensor([1.0, math.pi / 180, 1.0])
    size, low = xyz.new_tensor(grid.cell_size()) * unit, xyz.new_tensor(grid.low) * unit
    centre = (cells[:, 1:] + 0.5) * size + low
    others = batch.point_feats.index_select(0, rows)[:, _POSITION:]
    return torch.cat([polar - centre, polar, xyz[:, :2], others], 1)


def perceptron(widths: Sequence[int]) -> Perceptron:
    """Normalisation, then linear layers from width to width with normalisation and ReLU between them."""
    layers: list[nn.Module] = [PointBatchNorm(widths[0])]
    for cin, cout in pairwise(widths[:-1]):
        layers += [nn.Linear(cin, cout), PointBatchNorm(cout), nn.ReLU(inplace=True)]
    return Perceptron(*layers, nn.Linear(widths[-2], widths[-1]))


class PointNetwork(nn.Module):
    """Perceptron at the points, maximum over the points of each cell, and a layer to the width of voxels.

    Args:
        in_channel: values per point of ``data.features``. point_features, voxel_features: widths.
    """

    def __init__(self, in_channel: int, point_features: int, voxel_features: int) -> None:
        super().__init__()
        width = GEOMETRY + in_channel - _POSITION
        self.points = perceptron([width, *_HIDDEN, point_features])
        self.voxels = nn.Sequential(nn.Linear(point_features, voxel_features), nn.ReLU())

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Features [SN, point_features] of the points, 0 where they have no cell, and [SV, voxel_features]."""
        of_point = batch.cells.of_point
        rows = (of_point >= 0).nonzero()[:, 0]
        feats = self.points(point_inputs(batch, rows))
        most = cell_max(feats, of_point.index_select(0, rows), len(batch.cells))
        if len(rows) < len(of_point):
            feats = feats.new_zeros(len(of_point), feats.shape[1]).index_copy(0, rows, feats)
        return feats, self.voxels(most)


class PointHead(nn.Module):
    """Point refinement: voxel features brought back to the points, beside what the points had before.

    The layers are 256, 128, 64 wide. A point of no cell is classified from zeros.
    """

    def __init__(self, voxel_width: int, point_width: int, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = voxel_width + point_width
        for hidden in reversed(_HIDDEN):
            layers += [nn.Linear(width, hidden), PointBatchNorm(hidden), nn.ReLU()]
            width = hidden
        self.mlp = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, voxels: Tensor, points: Tensor, of_point: Tensor) -> tuple[Tensor, Tensor]:
        """Voxel features [SV, .] and point features [SN, .] -> logits [SN, classes], features before them [SN, 64].

        Args:
            of_point: i64 [SN], the cell of each point, -1 = none.
        """
        gathered = gather_rows(voxels, of_point)
        feats = self.mlp(torch.cat([gathered.to(points.dtype), points], 1))
        return self.classifier(feats), feats

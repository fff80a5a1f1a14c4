"""VoxelNet as SECOND has it (Yan et al., Sensors 2018; OpenPCDet's VoxelBackBone8x), with SLidR's embedding on top.

Its weights are those of the 3D backbone of SECOND and PV-RCNN. The map that it ends in is seen from above: all points
of a column share one output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from core.config import Section
from core.contracts import Batch, Output
from core.data.partitions.grid import Grid
from core.errors import UserError
from core.models.lidar.blocks import sparse_output
from core.sparse import (
    Conv3d,
    SparseBatchNorm,
    SparseReLU,
    SparseTensor,
    Window,
    WindowCache,
    gather_sum,
)
from core.sparse.maps import coarser
from core.sparse.points import GatherTable

__all__ = ["VoxelNet"]

_STEPS = ((2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2))  # along x, y, z
_KERNELS = ((3, 3, 3), (3, 3, 3), (3, 3, 3), (1, 1, 3))
_PADS = ((1, 1, 1), (1, 1, 1), (1, 1, 0), (0, 0, 0))
_WIDTHS = (16, 16, 32, 64, 64, 128)  # stem, four blocks, what is seen from above
_CELL = 8  # boxes along x and y of the grid in a cell of the map


class VoxelNet(nn.Module):
    """Points -> means of boxes -> a map from above -> logits, or an embedding, per point.

    Args:
        config: see :class:`VoxelNet.Config`.
        num_classes: outputs; classes including class 0 (ignore), or values of an embedding.
    """

    partitions: ClassVar[tuple[str, ...]] = ("grid",)

    class Config(Section):
        """``model:`` section."""

        name: Literal["voxelnet"] = Field(description="the network")
        max_points: int = Field(
            10, ge=1, description="points of a box that its mean is made of, the first ones"
        )
        normalize: bool = Field(
            False,
            description="the map's cells have length 1 before points read it; SLidR's pre-training: true",
        )
        in_channel: int = Field(
            4, ge=1, description="values per point; follows from data.features, so leave it out"
        )

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.config = config
        first, *widths, last = _WIDTHS
        self.conv_input = _layer(config.in_channel, first)
        self.conv1 = nn.Sequential(_layer(first, widths[0]))
        self.downs = nn.ModuleList()
        for i in range(3):
            self.downs.append(_block(widths[i], widths[i + 1], _STEPS[i]))
        self.conv_out = _layer(widths[-1], last, _KERNELS[-1], _STEPS[-1])
        self.final = Conv3d(last, num_classes, 1)

    def forward(self, batch: Batch) -> Output:
        """Logits [SV, num_classes] of the boxes' first points and [SN, num_classes] of all points, 0 outside the grid.

        ``stages`` are those of strides 1, 2 and 4.

        Raises:
            UserError: the grid is so high that its map has several layers, or so low that it has none.
        """
        grid, window = _window(batch)
        cache = WindowCache.of(batch.cells, window)
        means = gather_sum(batch.point_feats, _first_points(batch, self.config.max_points))
        x = self.conv1(self.conv_input(SparseTensor.from_batch(means, cache.coords, cache)))
        stages = [x]
        for down in self.downs:
            x = down(x)
            stages.append(x)
        sites = self.final(self.conv_out(x))
        feats = F.normalize(sites.feats, dim=1) if self.config.normalize else sites.feats
        points = gather_sum(feats, _View(batch, grid, window).table(cache, len(feats)))
        output = sparse_output(
            points.index_select(0, batch.cells.point), stages[:3], encoder=len(stages) - 1
        )
        return Output(output.logits, output.stages, output.encoder, point_logits=points)


def _layer(
    cin: int,
    cout: int,
    kernel: tuple[int, int, int] = (3, 3, 3),
    step: tuple[int, int, int] = (1, 1, 1),
) -> nn.Sequential:
    return nn.Sequential(
        Conv3d(cin, cout, kernel, step),
        SparseBatchNorm(cout, eps=1e-3, momentum=0.01),
        SparseReLU(),
    )


def _block(cin: int, cout: int, step: tuple[int, int, int]) -> nn.Sequential:
    """A strided convolution and two that keep the voxels."""
    return nn.Sequential(_layer(cin, cout, step=step), _layer(cout, cout), _layer(cout, cout))


def _window(batch: Batch) -> tuple[Grid, Window]:
    """The grid of a batch's boxes, and the pyramid on it."""
    grid = batch.cells.partition
    if not isinstance(grid, Grid):
        raise UserError(
            "voxelnet needs a grid of boxes", where="data.partition", cure="Set {name: grid}"
        )
    window = Window(grid.boxes, _STEPS, kernels=_KERNELS, pads=_PADS)
    layers = [size[2] for size in window.levels().values()][-1]
    if layers != 1:
        raise UserError(
            f"a grid of {grid.boxes[2]} boxes along z ends in {max(layers, 0)} layers; one is needed",
            where="data.partition",
            cure="Take 39 to 54 boxes along z; SLidR has 40",
        )
    return grid, window


def _first_points(batch: Batch, most: int) -> GatherTable:
    """Points -> mean of the first ``most`` in each cell."""
    cells = batch.cells
    point = (cells.of_point >= 0).nonzero()[:, 0]
    cell = cells.of_point.index_select(0, point)
    order = torch.argsort(cell, stable=True)
    cell, point = cell[order], point[order]
    counts = torch.bincount(cell, minlength=len(cells))
    first = counts.cumsum(0) - counts
    place = torch.arange(len(cell), device=cell.device) - first.index_select(0, cell)
    kept = place < most
    weight = 1.0 / counts.clamp_max(most)
    columns = len(cells.of_point)
    return GatherTable.from_entries(
        cell[kept], point[kept], weight.index_select(0, cell[kept]), len(cells), columns
    )


@dataclass(frozen=True)
class _View:
    """Where points read the map from above: between the cells of ``_CELL`` boxes, as if each stood at its corner."""

    batch: Batch
    grid: Grid
    window: Window

    def table(self, cache: WindowCache, sites: int) -> GatherTable:
        """Occupied cells of the map -> bilinear value at each point; empty cells are 0."""
        point = (self.batch.cells.of_point >= 0).nonzero()[:, 0]
        place = self._places(point)
        low = place.floor()
        part = place - low
        rows, index, weights = [], [], []
        for dx in (0, 1):
            for dy in (0, 1):
                site = self._sites(cache, point, low + low.new_tensor([dx, dy]))
                share = torch.where(low.new_tensor([dx, dy]) > 0, part, 1 - part).prod(1)
                met = (site >= 0) & (share > 0)
                rows.append(point[met])
                index.append(site[met])
                weights.append(share[met])
        count = len(self.batch.cells.of_point)
        return GatherTable.from_entries(
            torch.cat(rows), torch.cat(index), torch.cat(weights), count, sites
        )

    def _places(self, point: Tensor) -> Tensor:
        """F32 [P, 2] of points, in cells of the map along x and y."""
        xy = self.batch.points["xyz"].index_select(0, point)[:, :2].float()
        low = xy.new_tensor(self.grid.low[:2])
        return (xy - low) / (xy.new_tensor(self.grid.size[:2]) * _CELL)

    def _sites(self, cache: WindowCache, point: Tensor, cell: Tensor) -> Tensor:
        """Row of each point's cell of the map, -1 where it is empty; beyond the last cells, those go on."""
        stride = (1, 1, 1)
        for step in _STEPS:
            stride = coarser(stride, step)
        last = self.window.levels()[stride]
        start = cell.new_tensor(self.window.starts()[stride])
        edge = cell.new_tensor([last[0] - 1, last[1] - 1])
        cell = cell.clamp_min(0).minimum(edge) * _CELL + start[:2]
        scan = self.batch.cells.coords[:, 0].index_select(0, self._cell_of(point))
        coords = torch.stack([scan, *cell.unbind(1), start[2].expand(len(point))], 1)
        return cache.level(stride).find(cache.grid.pack_anywhere(coords))

    def _cell_of(self, point: Tensor) -> Tensor:
        return self.batch.cells.of_point.index_select(0, point)

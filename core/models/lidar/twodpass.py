"""The LiDAR network of 2DPASS (Yan et al., ECCV 2022): voxels of growing size, joined through the points.

There is no decoder and no strided convolution. Each scale has a grid of its own; grids are not nested (60 cells along z
become 30, 15, 8 and 4), so features move from one to the next by way of the points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from core.config import Section
from core.contracts import Batch, Output, Stage
from core.models.layers import PointBatchNorm
from core.sparse import (
    MAX_SPAN,
    Conv3d,
    MapCache,
    SparseBatchNorm,
    SparseLeakyReLU,
    SparseTensor,
    gather_sum,
)
from core.sparse.points import GatherTable
from core.sparse.tensor import Grid, argsort, floor_to

__all__ = ["PointGrid", "TwoDPass"]

MAX_CELLS = (
    MAX_SPAN // 2
)  # on each side of the box's lower corner, so that a batch of any scans can be indexed
SLOPE = 0.1  # of every leaky rectifier
HEAD = 128  # hidden width of the classifier
Vector = tuple[float, float, float]


class Residual(nn.Module):
    """``LeakyReLU(conv3-BN-LeakyReLU-conv3-BN (x) + conv1-BN (x))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            Conv3d(width, width, 3),
            SparseBatchNorm(width),
            SparseLeakyReLU(SLOPE),
            Conv3d(width, width, 3),
            SparseBatchNorm(width),
        )
        self.shortcut = nn.Sequential(Conv3d(width, width, 1), SparseBatchNorm(width))
        self.relu = nn.LeakyReLU(SLOPE)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[V, width] -> [V, width]."""
        return x.replace(self.relu(self.net(x).feats + self.shortcut(x).feats))


class PointGrid:
    """The occupied cells of one scale, and the sparse matrices between them, the points and other grids.

    Args:
        cells: i64 [P, 4] (b, x, y, z), the cell of each point.

    Attributes:
        coords: i32 [M, 4], ordered by (b, x, y, z). rows: i64 [P], each point's cell. counts: i64 [M], points in it.
        cache: kernel maps on this grid.
    """

    def __init__(self, cells: Tensor) -> None:
        grid = Grid.around(cells)
        keys, self.rows, self.counts = _unique(grid.pack(cells))
        self.coords = grid.unpack(keys)
        self.cache = MapCache(self.coords)

    def __len__(self) -> int:
        return len(self.coords)

    @cached_property
    def pool(self) -> GatherTable:
        """Points -> mean of each cell."""
        points = torch.arange(len(self.rows), device=self.rows.device)
        share = (1.0 / self.counts).index_select(0, self.rows)
        return GatherTable.from_entries(self.rows, points, share, len(self), len(self.rows))

    def pool_from(self, finer: PointGrid) -> GatherTable:
        """Cells of another grid -> points -> mean of each cell of this one; the points' features are never made.

        A cell enters once, however many points it shares with the coarser one.
        """
        pairs, _, counts = _unique(self.rows * len(finer) + finer.rows)
        rows = torch.div(pairs, max(len(finer), 1), rounding_mode="floor")
        cells = pairs - rows * len(finer)
        share = counts / self.counts.index_select(0, rows)
        return GatherTable.from_entries(rows, cells, share, len(self), len(finer))

    @cached_property
    def spread(self) -> GatherTable:
        """Cells -> points."""
        return GatherTable.lookup(self.rows, len(self))

    @cached_property
    def halves(self) -> tuple[GatherTable, GatherTable]:
        """Cells -> mean over cells of twice the edge, and back."""
        stride = (2, 2, 2)
        level = self.cache.level(stride)
        parent = level.find(self.cache.grid.pack(floor_to(self.coords, stride)))
        size = len(level.coords)
        counts = torch.zeros(size, dtype=torch.int64, device=parent.device)
        counts.scatter_add_(0, parent, torch.ones_like(parent))
        cells = torch.arange(len(self), device=parent.device)
        share = 1.0 / counts.index_select(0, parent)
        mean = GatherTable.from_entries(parent, cells, share, size, len(self))
        return mean, GatherTable.lookup(parent, size)


def _unique(keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``torch.unique`` of i64 [P], not negative, with inverse and counts; by radix sort where that is compiled."""
    order = argsort(keys).long()
    ordered = keys.index_select(0, order)
    values, places, counts = torch.unique_consecutive(
        ordered, return_inverse=True, return_counts=True
    )
    inverse = torch.empty_like(places).scatter_(0, order, places)
    return values, inverse, counts


def distinct_places(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Points that share all their cells look alike to the classifier, which needs to see only one of them.

    Args:
        rows: i64 [P] per grid, the cell of each point.

    Returns:
        places i64 [D], a point of each combination of cells; i64 [P], the place of each point.
    """
    key = rows[0]
    if len(key) == 0:
        return key.new_zeros(0), key
    for other in rows[1:]:  # one by one: a product of all numbers of cells would not fit 64 bits
        both = key * (other.max() + 1) + other
        _, key, _ = _unique(both)
    every = torch.arange(len(key), device=key.device)
    places = key.new_zeros(int(key.max()) + 1)
    return places.scatter_(0, key, every), key


def _cell_counts(config: TwoDPass.Config) -> list[list[int]]:
    """Cells along x, y and z of each grid, finest first."""
    counts = []
    for scale in (1, *config.scales):
        counts.append([math.ceil(cells / scale) for cells in config.shape])
    return counts


class Encoder(nn.Module):
    """One scale: convolutions on the finer grid, then a point-wise network with context, pooled to the coarser one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.voxels = nn.Sequential(Residual(width), Residual(width))
        self.context = nn.Sequential(
            nn.Linear(width, half), nn.LeakyReLU(SLOPE), PointBatchNorm(half),
            nn.Linear(half, half), nn.LeakyReLU(SLOPE), PointBatchNorm(half),
            nn.Linear(half, width), nn.LeakyReLU(SLOPE),
        )  # fmt: skip
        self.identity = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(SLOPE))
        self.merge = nn.Sequential(
            nn.Linear(2 * width, width), nn.LeakyReLU(SLOPE), nn.Linear(width, width)
        )

    def forward(
        self, x: SparseTensor, fine: PointGrid, coarse: PointGrid
    ) -> tuple[SparseTensor, Tensor, Tensor]:
        """``x`` [M_fine, C] -> (voxel features [M_fine, C], point features and voxel features [M_coarse, C])."""
        v = self.voxels(x)
        u = x.feats + v.feats
        pool, back = fine.halves
        context = gather_sum(self.context(gather_sum(u, pool)), back)
        # Points of one fine cell have equal features, so the layers run once per cell.
        merged = self.merge(torch.cat([self.identity(u), context.to(u.dtype)], 1))
        table = coarse.pool_from(fine)
        return v, gather_sum(merged, table), gather_sum(v.feats, table)


class TwoDPass(nn.Module):
    """Points -> logits per point, through cells of 0.1 m and 0.2, 0.4, ... of the YAML's box.

    "Points" are the batch's voxels, each at its representative's place: with ``data.voxel_size`` of 1 or 2 cm nearly
    every raw point is one. The box only fixes where cells begin: cells go on beyond it in every direction, so a point
    outside (far away, or turned out by augmentation) is treated as any other.

    Args:
        config: see :class:`TwoDPass.Config`.
        num_classes: outputs including class 0 (ignore).

    Attributes:
        scales: of the cells after each encoder block, in units of the finest.
    """

    partitions: ClassVar[tuple[str, ...]] = ("voxels",)
    low: Tensor  # f32 [3] m, lower corner of the box
    extent: Tensor  # f32 [3] m, the box's edges
    counts: Tensor  # f32 [1 + scales, 3], cells of each grid along x, y, z

    class Config(Section):
        """``model:`` section."""

        name: Literal["twodpass"] = Field(description="the network")
        hidden: int = Field(
            64,
            ge=2,
            le=2048,
            description="width of every layer; published: 64 (SemanticKITTI), 128 and 256 (nuScenes, large)",
        )
        scales: tuple[int, ...] = Field(
            (2, 4, 8, 16),
            min_length=1,
            max_length=16,
            description="edge of the cells after each block, in units of the finest; published: 2, 4, 8, 16, "
            "large: 16 twice more",
        )
        low: Vector = Field(
            (-50.0, -50.0, -4.0), description="m, lower corner of the box that is divided"
        )
        high: Vector = Field(
            (50.0, 50.0, 2.0), description="m, upper corner of the box that is divided"
        )
        shape: tuple[int, int, int] = Field(
            (1000, 1000, 60), description="cells of the finest grid along x, y, z"
        )
        in_channel: int = Field(
            4, ge=3, description="values per point; follows from data.features, so leave it out"
        )

        @field_validator("scales", "shape")
        @classmethod
        def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
            if min(value) < 1 or max(value) > MAX_CELLS:
                raise ValueError(f"scales and numbers of cells are 1 to {MAX_CELLS}")
            return value

        @model_validator(mode="after")
        def _ordered(self) -> TwoDPass.Config:
            if any(low >= high for low, high in zip(self.low, self.high)):
                raise ValueError("each coordinate of low is smaller than that of high")
            return self

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        width = config.hidden
        self.scales = config.scales
        self.voxel_mlp = nn.Sequential(
            nn.Linear(config.in_channel + 6, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.encoders = nn.ModuleList(Encoder(width) for _ in config.scales)
        self.head = nn.Sequential(
            nn.Linear(len(config.scales) * width, HEAD), nn.ReLU(), nn.Linear(HEAD, num_classes)
        )
        low = torch.tensor(config.low)
        extent = torch.tensor(config.high) - low
        counts = torch.tensor(_cell_counts(config), dtype=torch.float32)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("extent", extent, persistent=False)
        self.register_buffer("counts", counts, persistent=False)

    def forward(self, batch: Batch) -> Output:
        """Logits [SV, num_classes] in the batch's voxel order.

        ``stages[i]`` holds block i's voxel features [M, hidden] on the grid it starts from; its edge is that of the
        grid it leads to.
        """
        grids = self.grids(batch)
        fine = grids[0]
        points = self.voxel_mlp(self.point_inputs(batch, fine))
        inputs = gather_sum(points, fine.pool)
        x = SparseTensor.from_batch(inputs, fine.coords, fine.cache)
        places, rows = distinct_places([grid.rows for grid in dict.fromkeys(grids[1:])])
        heads: list[Tensor] = []
        stages: list[Stage] = []
        for i, (encoder, coarse) in enumerate(zip(self.encoders, grids[1:])):
            v, p, down = encoder(x, fine, coarse)
            stages.append(Stage(v.feats, fine.rows, (self.scales[i],) * 3))
            cells = coarse.rows.index_select(0, places)
            heads.append(gather_sum(p, GatherTable.lookup(cells, len(coarse))))
            x = SparseTensor.from_batch(p + down, coarse.coords, coarse.cache)
            fine = coarse
        classified = self.head(torch.cat(heads, 1))
        logits = gather_sum(classified, GatherTable.lookup(rows, len(places)))
        return Output(logits, tuple(stages), encoder=len(stages))

    def cells(self, points: Tensor, i: int) -> Tensor:
        """Cell i64 [P, 3] of each point [P, 3] (m) on grid ``i`` of ``(1, *scales)``; negative below ``low``.

        What lies farther away than the grid can index, with a published grid 12 km, falls into its border cells.
        """
        cells = torch.floor(self.counts[i] * (points - self.low) / self.extent)
        return cells.clamp(-MAX_CELLS, MAX_CELLS - 1).long()

    def grids(self, batch: Batch) -> list[PointGrid]:
        """The grids of ``(1, *scales)``; equal scales share one."""
        scan = batch.coords[:, :1].long()
        points = batch.at_cells("xyz")
        scales = (1, *self.scales)
        made: dict[int, PointGrid] = {}
        for i, scale in enumerate(scales):
            if scale not in made:
                cells = torch.cat([scan, self.cells(points, i)], 1)
                made[scale] = PointGrid(cells)
        return [made[scale] for scale in scales]

    def point_inputs(self, batch: Batch, finest: PointGrid) -> Tensor:
        """[SV, in_channel + 6]: features, offset from the mean of the cell's points, offset from the cell's corner."""
        points = batch.at_cells("xyz")
        mean = gather_sum(gather_sum(points, finest.pool), finest.spread)
        edge = self.extent / self.counts[0]
        corner = self.cells(points, 0) * edge + self.low
        return torch.cat([batch.feats, points - mean, points - corner], 1)

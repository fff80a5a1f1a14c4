"""Supervoxels of a batch, and which of them and of their cells and points are compared in a step.

Point-to-voxel distillation (Hou et al., "Point-to-Voxel Knowledge Distillation for LiDAR Semantic Segmentation", CVPR
2022, section 3.3). A supervoxel is a block of cells; few are drawn from each scan, rather the distant ones and those
with rare classes, and in each a fixed number of cells and points is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from core.contracts import Batch
from core.data import gather_rows
from core.data.partitions.cylinder import Cylinder
from core.errors import UserError

__all__ = [
    "Counts",
    "Drawn",
    "Sampling",
    "Supervoxels",
    "class_factor",
    "draw",
    "first_of_each",
    "minority_cells",
    "outer_distance",
    "scan_generators",
]

Sampling = Literal["difficulty", "distance", "class", "uniform"]


@dataclass(frozen=True)
class Supervoxels:
    """The blocks of cells that hold any, ordered by scan.

    Attributes:
        scan: i64 [G], the position in the batch of each.
        block: i64 [G, D], its place in the grid of blocks.
        of_cell: i64 [SV]. of_point: i64 [SN], -1 = the point has no cell.
    """

    scan: Tensor
    block: Tensor
    of_cell: Tensor
    of_point: Tensor

    def __len__(self) -> int:
        return len(self.scan)

    @classmethod
    def of(cls, batch: Batch, size: tuple[int, ...]) -> Supervoxels:
        """Of ``size`` cells along each axis of the partition.

        Raises:
            UserError: the partition has another number of axes.
        """
        coords = batch.coords.long()
        axes = coords.shape[1] - 1
        if len(size) != axes:
            raise UserError(
                f"a supervoxel is given as {list(size)}, and cells have {axes} coordinates",
                where="key 'distill.supervoxel'",
                cure=f"Give {axes} numbers of cells",
            )
        blocks = coords.clone()
        blocks[:, 1:] //= coords.new_tensor(size)
        extent = blocks.amax(0) + 1
        key = blocks[:, 0]
        for axis in range(1, axes + 1):
            key = key * extent[axis] + blocks[:, axis]
        found, of_cell = torch.unique(key, return_inverse=True)
        places = blocks.new_zeros(len(found), axes + 1)
        places[of_cell] = blocks  # all cells of a group write the same
        of_point = gather_rows(of_cell, batch.cells.of_point, fill=-1)
        return cls(places[:, 0], places[:, 1:], of_cell, of_point)

    def count(self, groups: Tensor, counted: Tensor | None = None) -> Tensor:
        """How many cells or points each holds, f32 [G].

        Args:
            groups: ``of_cell`` or ``of_point``. counted: bool, those that count; None = all.
        """
        inside = groups >= 0
        if counted is not None:
            inside = inside & counted
        numbers = torch.zeros(len(self), device=groups.device)
        return numbers.index_add_(0, groups.clamp_min(0), inside.float())


def outer_distance(batch: Batch, supervoxels: Supervoxels, size: tuple[int, ...]) -> Tensor:
    """The horizontal distance d_i of each supervoxel's outer border from the scanner, f32 [G] m.

    With cylinder cells that is the range of its outer arc, not beyond the grid; with others, whose blocks have no arc,
    the distance of its farthest cell.
    """
    partition = batch.cells.partition
    if isinstance(partition, Cylinder):
        rings = (supervoxels.block[:, 0] + 1) * size[0]
        if partition.cell is not None:
            return rings.float() * partition.cell[0]
        depth = float(partition.cell_size()[0])
        return partition.low[0] + rings.clamp(max=partition.bins[0]).float() * depth
    scanner = batch.origins.index_select(0, batch.coords[:, 0].long())
    distance = (batch.at_cells("xyz") - scanner)[:, :2].float().norm(dim=1)
    farthest = torch.zeros(len(supervoxels), device=distance.device)
    return farthest.scatter_reduce_(0, supervoxels.of_cell, distance, "amax")


def minority_cells(batch: Batch, classes: Tensor, number: int, threshold: float) -> Tensor:
    """The cells of classes that have at most a ``threshold`` share of their scan's points, bool [SV].

    Args:
        classes: i64 [SV], the class of each cell. number: of classes, class 0 included.
    """
    scan = batch.coords[:, 0].long()
    of_point = batch.cells.of_point
    points = torch.zeros(len(classes), device=classes.device)
    points.index_add_(0, of_point.clamp_min(0), (of_point >= 0).float())
    counts = torch.zeros(len(batch), number, device=classes.device)
    counts.view(-1).index_add_(0, scan * number + classes, points)
    minority = counts <= threshold * counts.sum(1, keepdim=True)
    return minority[scan, classes]


def class_factor(minority: Tensor) -> Tensor:
    """``f_class = 4 exp(-2 N_minor) + 1``: 5 where no cell is of a minority class, towards 1 with many.

    Args:
        minority: [G], the number of such cells, N_minor.
    """
    return 4 * torch.exp(-2 * minority) + 1


def scan_generators(batch: Batch, seed: int, step: int) -> list[np.random.Generator]:
    """One generator per scan.

    What it draws depends on seed, step and scan: not on the process, nor on what else is in the batch.
    """
    return [np.random.default_rng([seed, step, index]) for index in batch.indices]


def first_of_each(groups: Tensor, priority: Tensor, rows: int, count: int) -> Tensor:
    """The ``count`` items of smallest priority in each group, i64 [rows, count]; -1 where a group has fewer.

    Args:
        groups: i64 [N], 0 .. rows - 1, -1 = in none. priority: [N].
    """
    items = (groups >= 0).nonzero()[:, 0]
    items = items.index_select(0, priority.index_select(0, items).argsort(stable=True))
    ordered, order = groups.index_select(0, items).sort(stable=True)
    items = items.index_select(0, order)
    starts = torch.searchsorted(ordered, torch.arange(rows, device=groups.device))
    place = torch.arange(len(items), device=groups.device) - starts.index_select(0, ordered)
    kept = place < count
    table = groups.new_full((rows, count), -1)
    table[ordered[kept], place[kept]] = items[kept]
    return table


@dataclass(frozen=True)
class Counts:
    """How much is compared: supervoxels of each scan, cells and points of each supervoxel."""

    supervoxels: int
    cells: int
    points: int


@dataclass(frozen=True)
class Drawn:
    """What is compared in a step; R = scans x supervoxels of each.

    Attributes:
        cells: i64 [R, Nv], rows of the batch's cells, -1 = padding. points: i64 [R, Np], rows of its points.
    """

    cells: Tensor
    points: Tensor


def draw(
    batch: Batch,
    supervoxels: Supervoxels,
    weights: Tensor,
    minority: Tensor,
    counts: Counts,
    generators: list[np.random.Generator],
) -> Drawn:
    """Draw supervoxels by weight and without replacement, then cells and points: minorities first, else at random.

    A scan with too few supervoxels, and a supervoxel with too few cells or points, leave padding.

    Args:
        weights: f32 [G]; a supervoxel of weight 0 is never drawn. minority: bool [SV], see :func:`minority_cells`.
        generators: one per scan.
    """
    rows = len(batch) * counts.supervoxels
    sizes = torch.bincount(supervoxels.scan, minlength=len(batch))
    # Of exponential E_i, the smallest E_i / w_i: draws without replacement (Efraimidis and Spirakis, 2006).
    race = -torch.log1p(-_uniform(generators, sizes)) / weights
    entrants = torch.where(weights > 0, supervoxels.scan, -1)
    chosen = first_of_each(entrants, race, len(batch), counts.supervoxels).view(-1)
    row = chosen.new_full((len(supervoxels),), -1)
    full = (chosen >= 0).nonzero()[:, 0]
    row[chosen[full]] = full
    majority = (~minority).double()
    luck = _uniform(generators, batch.voxel_offsets.diff())
    of_cell = row.index_select(0, supervoxels.of_cell)
    cells = first_of_each(of_cell, majority + luck, rows, counts.cells)
    luck = _uniform(generators, batch.point_offsets.diff())
    of_point = gather_rows(row, supervoxels.of_point, fill=-1)
    majority = gather_rows(majority, batch.cells.of_point)
    points = first_of_each(of_point, majority + luck, rows, counts.points)
    return Drawn(cells, points)


def _uniform(generators: list[np.random.Generator], sizes: Tensor) -> Tensor:
    """F64 in [0, 1), as many of each generator as ``sizes`` [B] says."""
    numbers = [made.random(size) for made, size in zip(generators, sizes.tolist())]
    return torch.from_numpy(np.concatenate(numbers)).to(sizes.device)

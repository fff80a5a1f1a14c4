"""Samples joined, and the student's and the teacher's view of the same scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from core.contracts.cells import Cells, Change

__all__ = ["Batch", "BatchCameras", "Pair"]


@dataclass(frozen=True)
class BatchCameras:
    """The images of a batch and where its points lie in them; see :class:`SampleCameras`.

    Samples without images take up none: I of the B samples have some, and no camera sees a point of the others.

    Attributes:
        rows: i64 [B], row of ``images`` of each sample, -1 = it has none.
        images: f32 [I, K, 3, H, W]. pixels: f32 [K, SN, 2]. visible: bool [K, SN]. areas: i16 [K, SN, 2].
        planes: i64 [I, K, H, W] by name.
    """

    rows: Tensor
    images: Tensor
    pixels: Tensor
    visible: Tensor
    areas: Tensor
    planes: Mapping[str, Tensor] = field(default_factory=dict)

    def apply(self, change: Change) -> BatchCameras:
        """The same cameras with every tensor changed."""
        return BatchCameras(
            rows=change(self.rows),
            images=change(self.images),
            pixels=change(self.pixels),
            visible=change(self.visible),
            areas=change(self.areas),
            planes={name: change(plane) for name, plane in self.planes.items()},
        )

    def take(self, scans: Sequence[int], points: Tensor) -> BatchCameras:
        """The cameras of some of the samples.

        Args:
            scans: positions in the batch. points: i64, rows of their points.
        """
        rows = self.rows[list(scans)]
        kept = rows[rows >= 0]
        return BatchCameras(
            rows=_renumbered(rows, kept, len(self.images)),
            images=self.images.index_select(0, kept),
            pixels=self.pixels.index_select(1, points),
            visible=self.visible.index_select(1, points),
            areas=self.areas.index_select(1, points),
            planes={name: plane.index_select(0, kept) for name, plane in self.planes.items()},
        )


@dataclass(frozen=True)
class Batch:
    """Samples joined. Point rows of sample ``b`` are ``point_offsets[b]:point_offsets[b + 1]``, cells likewise.

    Attributes:
        tokens, indices, padded: one per sample. skipped: the samples' lists joined.
        points: columns by name, see :class:`Sample`; [SN, ...]. point_offsets: i64 [B + 1].
        features: names of the columns that networks read.
        cells: the points' cells.
        origins: f32 [B, 3] m, the scanner in each view's frame.
        cameras: None when the batch has no images.
        cell_features: of a cell: those of the ``point`` that represents it, or the ``mean`` over its points.
        contents: digests of the scans, "" where not asked for.
    """

    tokens: tuple[str, ...]
    indices: tuple[int, ...]
    padded: tuple[bool, ...]
    points: Mapping[str, Tensor]
    point_offsets: Tensor
    features: tuple[str, ...]
    cells: Cells
    origins: Tensor
    cameras: BatchCameras | None = None
    skipped: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    cell_features: Literal["point", "mean"] = "point"

    def __len__(self) -> int:
        return len(self.tokens)

    def _apply(self, change: Change) -> Batch:
        return replace(
            self,
            points={name: change(column) for name, column in self.points.items()},
            point_offsets=change(self.point_offsets),
            cells=self.cells.apply(change),
            origins=change(self.origins),
            cameras=None if self.cameras is None else self.cameras.apply(change),
        )

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device`` (asynchronous from pinned memory)."""
        return self._apply(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; called by the data loader on GPU machines."""
        return self._apply(lambda tensor: tensor.pin_memory())

    def take(self, scans: Sequence[int]) -> Batch:
        """Some of the samples, in the order given, as a batch of their own.

        Args:
            scans: positions in this batch, without repetition.
        """
        points = _rows_of(self.point_offsets, scans)
        cells = _rows_of(self.cells.offsets, scans)
        coords = self.cells.coords.index_select(0, cells)
        sizes = self.cells.offsets.diff()[list(scans)]
        number = torch.arange(len(scans), dtype=coords.dtype, device=coords.device)
        coords[:, 0] = torch.repeat_interleave(number, sizes)
        taken = Cells(
            self.cells.partition,
            coords,
            _renumbered(self.cells.of_point.index_select(0, points), cells, len(self.cells)),
            _renumbered(self.cells.point.index_select(0, cells), points, len(self.cells.of_point)),
            self.cells.labels.index_select(0, cells),
            _offsets_of(self.cells.offsets, scans),
        )
        return Batch(
            tokens=tuple(self.tokens[i] for i in scans),
            indices=tuple(self.indices[i] for i in scans),
            padded=tuple(self.padded[i] for i in scans),
            points={name: column.index_select(0, points) for name, column in self.points.items()},
            point_offsets=_offsets_of(self.point_offsets, scans),
            features=self.features,
            cells=taken,
            origins=self.origins[list(scans)],
            cameras=None if self.cameras is None else self.cameras.take(scans, points),
            skipped=self.skipped,
            contents=tuple(self.contents[i] for i in scans if self.contents),
            cell_features=self.cell_features,
        )

    def at_cells(self, column: str) -> Tensor:
        """A column of the points at the cells' representatives, [SV, ...]."""
        return self.points[column].index_select(0, self.cells.point)

    @cached_property
    def point_feats(self) -> Tensor:
        """F32 [SN, C], the columns of ``features`` side by side."""
        columns = [self.points[name] for name in self.features]
        return torch.cat([c if c.dim() == 2 else c[:, None] for c in columns], 1)

    @cached_property
    def feats(self) -> Tensor:
        """F32 [SV, C], the features of each cell's representative, or the mean over its points."""
        if self.cell_features == "mean":
            return self._mean_feats()
        return self.point_feats.index_select(0, self.cells.point)

    def _mean_feats(self) -> Tensor:
        """F32 [SV, C]; points of no cell play no part."""
        rows = (self.cells.of_point >= 0).nonzero()[:, 0]
        cell = self.cells.of_point.index_select(0, rows)
        feats = self.point_feats.index_select(0, rows)
        total = feats.new_zeros(len(self.cells), feats.shape[1]).index_add(0, cell, feats)
        count = torch.bincount(cell, minlength=len(self.cells)).clamp_min(1)
        return total / count[:, None]

    @property
    def coords(self) -> Tensor:
        """I32 [SV, 1 + D] of the cells, batch index first."""
        return self.cells.coords

    @property
    def labels(self) -> Tensor:
        """I64 [SV] train ids of the cells."""
        return self.cells.labels

    @property
    def point_to_voxel(self) -> Tensor:
        """I64 [SN], row of each point's cell, -1 = none."""
        return self.cells.of_point

    @property
    def voxel_to_point(self) -> Tensor:
        """I64 [SV], row of the point that represents each cell."""
        return self.cells.point

    @property
    def voxel_offsets(self) -> Tensor:
        """I64 [B + 1] of the cells."""
        return self.cells.offsets

    @property
    def point_labels(self) -> Tensor:
        """I64 [SN], the column ``label``."""
        return self.points["label"]

    @cached_property
    def keyframe(self) -> Tensor:
        """Bool [SN], points of the keyframes."""
        return self.points["sweep"] == 0

    @property
    def distance(self) -> Tensor:
        """F32 [SN] m from the scanner, the column."""
        return self.points["distance"]

    @property
    def images(self) -> Tensor | None:
        """F32 [I, K, 3, H, W] in 0..1 of the samples that have images, or None."""
        return None if self.cameras is None else self.cameras.images

    @cached_property
    def image_rows(self) -> Tensor | None:
        """I64 [SV], row of ``images`` of each cell's sample (-1 = it has none), or None."""
        if self.cameras is None:
            return None
        return self.cameras.rows.index_select(0, self.coords[:, 0].long())

    @cached_property
    def pixels(self) -> Tensor | None:
        """F32 [K, SV, 2], pixels of the cells' representatives, or None."""
        return None if self.cameras is None else self.cameras.pixels[:, self.cells.point]

    @cached_property
    def visible(self) -> Tensor | None:
        """Bool [K, SV], of the cells' representatives, or None."""
        return None if self.cameras is None else self.cameras.visible[:, self.cells.point]

    @cached_property
    def areas(self) -> Tensor | None:
        """I16 [K, SV, 2], column and row of the pixels that the cells' representatives fall on, or None."""
        return None if self.cameras is None else self.cameras.areas[:, self.cells.point]


def _rows_of(offsets: Tensor, scans: Sequence[int]) -> Tensor:
    """I64: the rows of some samples, one after the other."""
    bounds = offsets.tolist()
    parts = [torch.arange(bounds[i], bounds[i + 1], device=offsets.device) for i in scans]
    return torch.cat(parts)


def _offsets_of(offsets: Tensor, scans: Sequence[int]) -> Tensor:
    sizes = offsets.diff()[list(scans)]
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _renumbered(rows: Tensor, kept: Tensor, count: int) -> Tensor:
    """Old rows (-1 = none) under the numbers that the ``kept`` of ``count`` rows have from now on."""
    place = kept.new_full((count + 1,), -1)  # one entry more: -1 looks itself up at the end
    place[kept] = torch.arange(len(kept), device=kept.device)
    return place[rows]


@dataclass(frozen=True)
class Pair:
    """The student's and the teacher's view of the same scans, linked by point indices alone."""

    student: Batch
    teacher: Batch

    def __len__(self) -> int:
        return len(self.student)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The scans."""
        return self.student.tokens

    @property
    def skipped(self) -> tuple[str, ...]:
        """Messages about damaged scans; they travel in the student's batch."""
        return self.student.skipped

    def to(self, device: torch.device | str) -> Pair:
        """Both views on ``device``."""
        return Pair(self.student.to(device), self.teacher.to(device))

    def pin_memory(self) -> Pair:
        """Both views in page-locked memory."""
        return Pair(self.student.pin_memory(), self.teacher.pin_memory())

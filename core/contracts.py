"""What one floor hands to the next: scan -> sample -> batch (or a pair of views) -> output.

Units are metres, seconds, radians and pixels; the LiDAR frame has x forward (or the data set's own heading), z up.
Label 0 is "ignore" in train ids everywhere. ``N`` points, ``V`` cells, ``C`` channels, ``K`` cameras, ``B`` samples;
``SN`` and ``SV`` are the points and cells of all samples of a batch together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from core.points import Points

__all__ = [
    "IGNORE",
    "Batch",
    "BatchCameras",
    "Camera",
    "Cells",
    "Grouping",
    "Output",
    "Pair",
    "Partition",
    "Points",
    "Sample",
    "SampleCameras",
    "Scan",
    "Sensor",
    "Stage",
]

IGNORE = 0  # train id of "ignore"


@dataclass(frozen=True)
class Sensor:
    """The scanner, as a data set's reader knows it.

    Attributes:
        origin: m, where it stands in the scan's frame (x, y, z).
        beams: lasers.
        elevation: rad, (lowest, highest) beam above the horizon.
        intensity_scale: largest intensity it writes (KITTI 1, nuScenes 255); None = unknown.
    """

    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    beams: int = 64
    elevation: tuple[float, float] = (-0.4363, 0.0524)
    intensity_scale: float | None = None

    @cached_property
    def place(self) -> np.ndarray:
        """``origin`` as f32 [3] m."""
        return np.array(self.origin, np.float32)

    def seen(self, xyz: np.ndarray) -> np.ndarray:
        """Points f32 [N, 3] m relative to the scanner; the very input where it stands at the frame's origin."""
        return xyz - self.place if any(self.origin) else xyz


@dataclass(frozen=True)
class Camera:
    """One image and the chain that leads LiDAR points into it.

    Attributes:
        name: the data set's channel name, e.g. ``CAM_FRONT`` or ``image_2``.
        size: (width, height) px of the image as recorded.
        projection: f64 [3, 4], homogeneous LiDAR point (m) -> (u*depth, v*depth, depth) px; the whole chain, composed.
        load: decodes the image when called: u8 [H, W, 3] RGB. Nothing is opened before.
        min_depth: m; nearer points are never visible.
        planes: loaders of maps aligned with the image as recorded, by name: integers [H, W], e.g. superpixels.
    """

    name: str
    size: tuple[int, int]
    projection: np.ndarray
    load: Callable[[], np.ndarray]
    min_depth: float = 1.0
    planes: Mapping[str, Callable[[], np.ndarray]] = field(default_factory=dict)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Project LiDAR points.

        Args:
            points: [N, 3] m, LiDAR frame.

        Returns:
            uv f32 [N, 2] px (garbage where not visible), depth f32 [N] m, visible bool [N]: deeper than ``min_depth``
            and strictly between the outermost pixel centres.
        """
        homogeneous = points.astype(np.float64) @ self.projection[:, :3].T + self.projection[:, 3]
        depth = homogeneous[:, 2]
        in_front = depth > self.min_depth
        uv = homogeneous[:, :2] / np.where(in_front, depth, 1.0)[:, None]
        width, height = self.size
        inside_u = (uv[:, 0] > 0) & (uv[:, 0] < width - 1)
        inside_v = (uv[:, 1] > 0) & (uv[:, 1] < height - 1)
        visible = in_front & inside_u & inside_v
        return uv.astype(np.float32), depth.astype(np.float32), visible


@dataclass(frozen=True)
class Scan:
    """One keyframe as read from disk, neighbouring sweeps appended after its own points.

    Attributes:
        token: names the scan across the data set, e.g. ``08/000123`` or a nuScenes sample_data token.
        points: table of points. Columns: ``xyz`` f32 [N, 3] m in the keyframe's LiDAR frame; ``lag`` f32 [N] s before
            (+) or after (-) the keyframe, exactly 0 for its own points; ``intensity`` f32 [N] in the data set's own
            scale; where known ``label`` u8 [N] train ids (0 for sweep points without one), ``instance`` i32 [N] (0 =
            none), ``pasted`` bool [N] (points put in from other scans: no image shows them, they count as the
            keyframe's and follow its own), and whatever ``dataset.columns`` adds.
        sensor: the scanner.
        cameras: the keyframe's cameras, images not yet decoded.
        pose: f64 [4, 4] LiDAR -> world.
    """

    token: str
    points: Points
    sensor: Sensor = Sensor()
    cameras: tuple[Camera, ...] = ()
    pose: np.ndarray = field(default_factory=lambda: np.full((4, 4), np.nan))

    @property
    def keyframe(self) -> np.ndarray:
        """Bool [N]: the point belongs to the keyframe itself."""
        return self.points["lag"] == 0

    @property
    def xyz(self) -> np.ndarray:
        """F32 [N, 3] m, the column."""
        return self.points["xyz"]

    @property
    def intensity(self) -> np.ndarray:
        """F32 [N], the column."""
        return self.points["intensity"]

    @property
    def time_lag(self) -> np.ndarray:
        """F32 [N] s, the column ``lag``."""
        return self.points["lag"]

    @property
    def labels(self) -> np.ndarray | None:
        """U8 [N] train ids, the column ``label``, or None."""
        return self.points.get("label")

    @property
    def instances(self) -> np.ndarray | None:
        """I32 [N], the column ``instance``, or None."""
        return self.points.get("instance")

    @property
    def pasted(self) -> np.ndarray | None:
        """Bool [N], the column ``pasted``, or None."""
        return self.points.get("pasted")

    def having(self, **columns: np.ndarray) -> Scan:
        """The same scan with these columns of its points replaced or added."""
        return replace(self, points=self.points.having(**columns))


@dataclass(frozen=True)
class Grouping:
    """Which points of a view share a cell.

    Attributes:
        coords: i32 [V, D] of each cell. point: i64 [V], the point that represents it. of_point: i64 [N], the cell of
            each point, -1 = none.
    """

    coords: np.ndarray
    point: np.ndarray
    of_point: np.ndarray

    def __len__(self) -> int:
        return len(self.coords)


class Partition(Protocol):
    """How points fall into cells; implementations are the ``data.partition`` sections of core.data.partitions."""

    @property
    def name(self) -> str:
        """Key of the registry."""

    @property
    def axes(self) -> int:
        """Coordinates of a cell."""

    def index(self, xyz: np.ndarray, sensor: Sensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Cell i32 [N, D] of each point, and bool [N] whether it has one (None = all have)."""

    def rank(self, xyz: np.ndarray, sensor: Sensor) -> np.ndarray | None:
        """F32 [N]: of a cell's points the lowest represents it, the first of equals; None = the first point."""

    def centres(self, coords: np.ndarray, sensor: Sensor) -> np.ndarray:
        """F32 [M, 3] m, centres of cells [M, D] that :meth:`index` gave."""

    def group(self, xyz: np.ndarray, sensor: Sensor) -> Grouping:
        """The occupied cells and the points in them."""


@dataclass(frozen=True)
class SampleCameras:
    """The images of one sample and where its points lie in them.

    Attributes:
        images: f32 [K, 3, H, W] in 0..1. pixels: f32 [K, N, 2] in [-1, 1] (align_corners=True), 0 where not visible.
        visible: bool [K, N]. planes: i64 [K, H, W] by name, aligned with the images.
    """

    images: np.ndarray
    pixels: np.ndarray
    visible: np.ndarray
    planes: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One augmented view of a scan, its points in cells.

    Attributes:
        token: the scan's. index: position in the data set.
        points: columns ``xyz`` f32 [N, 3] m (augmented), ``lag``, ``intensity`` (divided), ``label`` i64 [N],
            ``distance`` f32 [N] m from the scanner before augmentation, and those of ``dataset.columns``.
        features: names of the columns that networks read, in order.
        partition, grouping: the cells, and which points are in them.
        labels: i64 [V] train ids of the cells.
        origin: f32 [3] m, the scanner in the view's frame; a shift of the points is taken as noise in its place.
        cameras: None when the view uses no camera.
        padded: the sample repeats another one (to even out ranks, or in place of a damaged one); it never counts in a
            score.
        skipped: why damaged scans were passed over before this one was found, one line each.
    """

    token: str
    index: int
    points: Points
    features: tuple[str, ...]
    partition: Partition
    grouping: Grouping
    labels: np.ndarray
    origin: np.ndarray
    cameras: SampleCameras | None = None
    padded: bool = False
    skipped: tuple[str, ...] = ()

    @property
    def coords(self) -> np.ndarray:
        """I32 [V, D] of the cells."""
        return self.grouping.coords

    @property
    def point_to_voxel(self) -> np.ndarray:
        """I64 [N], the cell of each point, -1 = none."""
        return self.grouping.of_point

    @property
    def voxel_to_point(self) -> np.ndarray:
        """I64 [V], the point that represents each cell."""
        return self.grouping.point

    @property
    def point_labels(self) -> np.ndarray:
        """I64 [N], the column ``label``."""
        return self.points["label"]

    @property
    def keyframe(self) -> np.ndarray:
        """Bool [N], points of the keyframe."""
        return self.points["lag"] == 0

    @property
    def distance(self) -> np.ndarray:
        """F32 [N] m, the column."""
        return self.points["distance"]

    @property
    def feats(self) -> np.ndarray:
        """F32 [V, C], the features of each cell's representative."""
        columns = [self.points[name][self.grouping.point] for name in self.features]
        return np.column_stack(columns).astype(np.float32, copy=False)

    @property
    def images(self) -> np.ndarray | None:
        """F32 [K, 3, H, W] in 0..1, or None."""
        return None if self.cameras is None else self.cameras.images

    @property
    def pixels(self) -> np.ndarray | None:
        """F32 [K, V, 2] in [-1, 1], of the cells' representatives, or None."""
        return None if self.cameras is None else self.cameras.pixels[:, self.grouping.point]

    @property
    def visible(self) -> np.ndarray | None:
        """Bool [K, V], of the cells' representatives, or None."""
        return None if self.cameras is None else self.cameras.visible[:, self.grouping.point]


Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cells:
    """The cells of a batch. Rows of sample ``b`` are ``offsets[b]:offsets[b + 1]``.

    Attributes:
        partition: how they came about.
        coords: i32 [SV, 1 + D], batch index first.
        of_point: i64 [SN], row of each point's cell, -1 = none. point: i64 [SV], the point that represents each.
        labels: i64 [SV] train ids; where the reader gives no label they are 0 and never enter a loss.
        offsets: i64 [B + 1].
        tables: what is derived from the cells, made once and shared by every network that sees this batch: kernel maps
            (:class:`core.sparse.MapCache`) and the like, by kind.
    """

    partition: Partition
    coords: Tensor
    of_point: Tensor
    point: Tensor
    labels: Tensor
    offsets: Tensor
    tables: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.coords)

    def apply(self, change: Change) -> Cells:
        """The same cells with every tensor changed; nothing derived from them comes along."""
        return Cells(
            self.partition,
            change(self.coords),
            change(self.of_point),
            change(self.point),
            change(self.labels),
            change(self.offsets),
        )


@dataclass(frozen=True)
class BatchCameras:
    """The images of a batch and where its points lie in them; see :class:`SampleCameras`.

    Attributes:
        images: f32 [B, K, 3, H, W]. pixels: f32 [K, SN, 2]. visible: bool [K, SN]. planes: i64 [B, K, H, W] by name.
    """

    images: Tensor
    pixels: Tensor
    visible: Tensor
    planes: Mapping[str, Tensor] = field(default_factory=dict)

    def apply(self, change: Change) -> BatchCameras:
        """The same cameras with every tensor changed."""
        planes = {name: change(plane) for name, plane in self.planes.items()}
        return BatchCameras(change(self.images), change(self.pixels), change(self.visible), planes)


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
        cameras = self.cameras
        if cameras is not None:
            at = torch.tensor(list(scans), device=points.device)
            cameras = BatchCameras(
                cameras.images.index_select(0, at),
                cameras.pixels.index_select(1, points),
                cameras.visible.index_select(1, points),
                {name: plane.index_select(0, at) for name, plane in cameras.planes.items()},
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
            cameras=cameras,
            skipped=self.skipped,
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
        """F32 [SV, C], the features of each cell's representative."""
        return self.point_feats.index_select(0, self.cells.point)

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
        return self.points["lag"] == 0

    @property
    def distance(self) -> Tensor:
        """F32 [SN] m from the scanner, the column."""
        return self.points["distance"]

    @property
    def images(self) -> Tensor | None:
        """F32 [B, K, 3, H, W] in 0..1, or None."""
        return None if self.cameras is None else self.cameras.images

    @cached_property
    def pixels(self) -> Tensor | None:
        """F32 [K, SV, 2], pixels of the cells' representatives, or None."""
        return None if self.cameras is None else self.cameras.pixels[:, self.cells.point]

    @cached_property
    def visible(self) -> Tensor | None:
        """Bool [K, SV], of the cells' representatives, or None."""
        return None if self.cameras is None else self.cameras.visible[:, self.cells.point]


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


class Stage:
    """Features of one stage of a network, by rows.

    Attributes:
        feats: [M, C], one row per cell of the stage.
        edge: of its cells, in units of the batch's cells, per axis.
    """

    def __init__(self, feats: Tensor, rows: Tensor, edge: tuple[int, ...]) -> None:
        self.feats, self.edge = feats, edge
        self._rows = rows

    @property
    def rows(self) -> Tensor:
        """I64 [SV], the row of ``feats`` for each of the batch's cells."""
        return self._rows

    @property
    def channels(self) -> int:
        """Columns of the features."""
        return self.feats.shape[1]

    def at_cells(self) -> Tensor:
        """The features at each of the batch's cells, [SV, C]; an engine that can interpolate does."""
        return self.feats.index_select(0, self.rows)


@dataclass(frozen=True)
class Output:
    """What a network returns.

    Attributes:
        logits: [SV, outputs], by cell; column 0 is "ignore" and never predicted.
        stages: per-stage features, the encoder's first.
        encoder: how many of ``stages`` are the encoder's.
        point_logits: [SN, outputs], where the network decides for each point; scores and votes take these then.
    """

    logits: Tensor
    stages: Sequence[Stage] = ()
    encoder: int = 0
    point_logits: Tensor | None = None

    @property
    def encoder_stages(self) -> Sequence[Stage]:
        """The stages of the encoder, fine to coarse."""
        return self.stages[: self.encoder]

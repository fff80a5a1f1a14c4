"""One augmented view of a scan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from core.contracts.cells import Grouping, Partition
from core.contracts.points import Points

__all__ = ["Sample", "SampleCameras"]


@dataclass(frozen=True)
class SampleCameras:
    """The images of one sample and where its points lie in them.

    A scan without images has K = 0.

    Attributes:
        images: f32 [K, 3, H, W] in 0..1.
        pixels: f32 [K, N, 2] in [-1, 1], places between pixel centres (align_corners=True), 0 where not visible.
        visible: bool [K, N], between the centres of the outermost pixels, where an image can be interpolated.
        areas: i16 [K, N, 2], column and row of the pixel on whose area the point falls, -1 where on none: pixel j of an
            image reaches from j to j + 1, and the outermost ones count in full.
        planes: i64 [K, H, W] by name, aligned with the images.
    """

    images: np.ndarray
    pixels: np.ndarray
    visible: np.ndarray
    areas: np.ndarray
    planes: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def none(cls, points: int, planes: Iterable[str] = ()) -> SampleCameras:
        """Of a scan of so many points that has no image, in a view that has some where it can."""
        return cls(
            images=np.zeros((0, 3, 1, 1), np.float32),
            pixels=np.zeros((0, points, 2), np.float32),
            visible=np.zeros((0, points), bool),
            areas=np.zeros((0, points, 2), np.int16),
            planes={name: np.zeros((0, 1, 1), np.int64) for name in planes},
        )

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Sample:
    """One augmented view of a scan, its points in cells.

    Attributes:
        token: the scan's. index: position in the data set.
        points: columns ``xyz`` f32 [N, 3] m (augmented), ``lag``, ``sweep``, ``intensity`` (divided), ``label``
            i64 [N], ``distance`` f32 [N] m from the scanner before augmentation, and those of ``dataset.columns``.
        features: names of the columns that networks read, in order.
        partition, grouping: the cells, and which points are in them.
        labels: i64 [V] train ids of the cells.
        origin: f32 [3] m, the scanner in the view's frame; a shift of the points is taken as noise in its place.
        cameras: None when the view uses no camera.
        padded: the sample repeats another one (to even out ranks, or in place of a damaged one); it never counts in a
            score.
        skipped: why damaged scans were passed over before this one was found, one line each.
        content: digest of the scan it was made from, where that is asked for.
        cell_features: those of a cell are those of the ``point`` that represents it, or the ``mean`` over its points.
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
    content: str = ""
    cell_features: Literal["point", "mean"] = "point"

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
        return self.points["sweep"] == 0

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

"""What one floor hands to the next: scan -> sample -> batch (or a pair of views) -> output.

Units are metres, seconds and pixels; the LiDAR frame has x forward (or the data set's own heading), z up. Label 0 is
"ignore" in train ids everywhere. ``N`` points, ``V`` voxels, ``C`` channels, ``K`` cameras, ``B`` samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from core.sparse import SparseTensor

__all__ = ["IGNORE", "Batch", "Camera", "Output", "Pair", "Sample", "Scan"]

IGNORE = 0  # train id of "ignore"


@dataclass(frozen=True)
class Camera:
    """One image and the chain that leads LiDAR points into it.

    Attributes:
        name: the data set's channel name, e.g. ``CAM_FRONT`` or ``image_2``.
        size: (width, height) px of the image as recorded.
        projection: f64 [3, 4], homogeneous LiDAR point (m) -> (u*depth, v*depth, depth) px; the whole chain, composed.
        load: decodes the image when called: u8 [H, W, 3] RGB. Nothing is opened before.
        min_depth: m; nearer points are never visible.
    """

    name: str
    size: tuple[int, int]
    projection: np.ndarray
    load: Callable[[], np.ndarray]
    min_depth: float = 1.0

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
        inside = (uv[:, 0] > 0) & (uv[:, 0] < width - 1) & (uv[:, 1] > 0) & (uv[:, 1] < height - 1)
        return uv.astype(np.float32), depth.astype(np.float32), in_front & inside


@dataclass(frozen=True)
class Scan:
    """One keyframe as read from disk, neighbouring sweeps appended after its own points.

    Attributes:
        token: names the scan across the data set, e.g. ``08/000123`` or a nuScenes sample_data token.
        points: f32 [N, 3] m, keyframe's LiDAR frame.
        intensity: f32 [N], the data set's own scale (KITTI 0..1, nuScenes 0..255).
        labels: u8 [N] train ids, or None where the split has none. Sweep points of nuScenes carry 0.
        instances: i32 [N], 0 = no instance, or None.
        time_lag: f32 [N] s before (+) or after (-) the keyframe; exactly 0 for the keyframe's own points.
        cameras: the keyframe's cameras, images not yet decoded.
        pose: f64 [4, 4] LiDAR -> world.
        pasted: bool [N], points of objects put in from other scans, which no image shows; they count as the keyframe's
            and follow its own. None = there are none.
    """

    token: str
    points: np.ndarray
    intensity: np.ndarray
    labels: np.ndarray | None
    instances: np.ndarray | None
    time_lag: np.ndarray
    cameras: tuple[Camera, ...]
    pose: np.ndarray
    pasted: np.ndarray | None = None

    @property
    def keyframe(self) -> np.ndarray:
        """Bool [N]: the point belongs to the keyframe itself."""
        return self.time_lag == 0


@dataclass(frozen=True)
class Sample:
    """One augmented, voxelised view of a scan.

    Attributes:
        token: the scan's.
        index: position in the data set.
        coords: i32 [V, 3], units of one voxel, minimum 0.
        feats: f32 [V, C]: x, y, z (m, augmented), intensity of each voxel's representative (first) point.
        labels: i64 [V] train ids of the representatives.
        point_to_voxel: i64 [N], -1 for a point dropped or outside the grid.
        voxel_to_point: i64 [V], the representative's index into the N points.
        point_labels: i64 [N], every raw point of the view.
        keyframe: bool [N] points of the keyframe.
        distance: f32 [N] m from the sensor, before augmentation (for range bins).
        images: f32 [K, 3, H, W] in 0..1, or None when the view uses no camera.
        pixels: f32 [K, V, 2] in [-1, 1] (align_corners=True), or None.
        visible: bool [K, V], or None.
        padded: the sample repeats another one (to even out ranks, or in place of a damaged one); it never counts in a
            score.
        skipped: why damaged scans were passed over before this one was found, one line each.
    """

    token: str
    index: int
    coords: np.ndarray
    feats: np.ndarray
    labels: np.ndarray
    point_to_voxel: np.ndarray
    voxel_to_point: np.ndarray
    point_labels: np.ndarray
    keyframe: np.ndarray
    distance: np.ndarray
    images: np.ndarray | None = None
    pixels: np.ndarray | None = None
    visible: np.ndarray | None = None
    padded: bool = False
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Samples joined. Voxel rows of sample ``b`` are ``voxel_offsets[b]:voxel_offsets[b+1]``, points likewise.

    Attributes:
        coords: i32 [SV, 4], batch index first: (b, x, y, z).
        feats: f32 [SV, C]. labels: i64 [SV]; voxels of other sweeps carry 0 and so never enter a loss.
        point_to_voxel: i64 [SN] rows of the joined voxels, -1 = none.
        voxel_to_point: i64 [SV] rows of the joined points.
        point_labels: i64 [SN]. keyframe: bool [SN]. distance: f32 [SN] m.
        voxel_offsets, point_offsets: i64 [B + 1].
        images: f32 [B, K, 3, H, W] or None. pixels: f32 [K, SV, 2] or None. visible: bool [K, SV] or None.
        tokens, indices, padded: one per sample. skipped: the samples' lists joined.
    """

    tokens: tuple[str, ...]
    indices: tuple[int, ...]
    padded: tuple[bool, ...]
    coords: Tensor
    feats: Tensor
    labels: Tensor
    point_to_voxel: Tensor
    voxel_to_point: Tensor
    point_labels: Tensor
    keyframe: Tensor
    distance: Tensor
    voxel_offsets: Tensor
    point_offsets: Tensor
    images: Tensor | None = None
    pixels: Tensor | None = None
    visible: Tensor | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    def _apply(self, function: Callable[[Tensor], Tensor]) -> Batch:
        moved = {
            f.name: function(value)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), torch.Tensor)
        }
        return replace(self, **moved)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device`` (asynchronous from pinned memory)."""
        return self._apply(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; called by the data loader on GPU machines."""
        return self._apply(lambda tensor: tensor.pin_memory())


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


@dataclass(frozen=True)
class Output:
    """What a network returns.

    Attributes:
        logits: [SV, classes]; column 0 is "ignore" and never predicted.
        stages: per-stage sparse features, coarse order of the network's own choosing, for methods that compare them.
        extras: anything else a method may compare, by name.
    """

    logits: Tensor
    stages: Sequence[SparseTensor] = ()
    extras: Mapping[str, Tensor] = field(default_factory=dict)

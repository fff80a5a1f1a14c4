"""A scan as read from disk: its points, its scanner, its cameras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from core.contracts.points import Points

__all__ = ["Camera", "Scan", "Sensor"]


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
            (+) or after (-) the keyframe; ``sweep`` i16 [N], 0 for the keyframe's own points, k for those of the k-th
            appended sweep; ``intensity`` f32 [N] in the data set's own scale; where known ``label`` u8 [N] train
            ids (0 for sweep points without one), ``instance`` i32 [N] (0 = none), ``pasted`` bool [N] (points
            put in from other scans: no image shows them, they count as the keyframe's and follow its own),
            ``no_return`` bool [N] (rows of the file that are no points: they fall into no cell), ``beam`` i16 [N] (the
            laser, counted from 1; 0 = unknown), and whatever ``dataset.columns`` adds.
        sensor: the scanner.
        cameras: the keyframe's cameras, images not yet decoded.
        pose: f64 [4, 4] LiDAR -> world.
        images_optional: a view with images does without them where the scan has no camera, as sweeps and folders of
            scans that nobody labelled may; of any other scan their absence is an error.
    """

    token: str
    points: Points
    sensor: Sensor = Sensor()
    cameras: tuple[Camera, ...] = ()
    pose: np.ndarray = field(default_factory=lambda: np.full((4, 4), np.nan))
    images_optional: bool = False

    @property
    def keyframe(self) -> np.ndarray:
        """Bool [N]: the point belongs to the keyframe itself."""
        return self.points["sweep"] == 0

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

    def having(self, **columns: np.ndarray | None) -> Scan:
        """The same scan with these columns of its points replaced or added; None takes one away."""
        return replace(self, points=self.points.having(**columns))

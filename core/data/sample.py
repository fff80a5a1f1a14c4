"""One scan to one augmented view, its points in cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from core.contracts import (
    IGNORE,
    Camera,
    Grouping,
    Partition,
    Points,
    Sample,
    SampleCameras,
    Scan,
    Sensor,
)
from core.data.augment import UNCHANGED, Change, draw_change, draw_kept, move
from core.data.beams import thin
from core.data.config import AugmentConfig, DataConfig
from core.data.cuboids import draw_box, enough_in_sight
from core.data.image_augment import augment_aligned
from core.data.image_crop import Box, nearest
from core.data.mapping import majority_labels
from core.data.picture import NO_AREA, Picture
from core.data.visits import visited
from core.datasets.columns import CELL_COLUMNS, READ_COLUMNS
from core.errors import UserError

__all__ = [
    "COLUMN_WIDTHS",
    "Recipe",
    "decode_image",
    "keyframe_scan",
    "make_sample",
    "project_points",
]

# Columns every sample has that a network may read, and their values per point.
COLUMN_WIDTHS = {"xyz": 3, "intensity": 1, "distance": 1, "lag": 1}


@dataclass(frozen=True)
class Recipe:
    """How every scan of a loader becomes a sample; in evaluation the same as in training, without the draws.

    Attributes:
        config: the ``data:`` section. partition: its cells.
        augment: what is drawn for the points; None = nothing.
        images: the view has images.
        training: also crop to ``max_voxels``, draw cameras and augment images.
    """

    config: DataConfig
    partition: Partition
    augment: AugmentConfig | None
    images: bool
    training: bool

    @classmethod
    def of(cls, config: DataConfig, training: bool) -> Recipe:
        """The recipe of a ``data:`` section."""
        augment = config.augment if training else None
        return cls(config, config.cells, augment, config.uses_images(training), training)

    def sample(
        self,
        scan: Scan,
        index: int,
        rng: np.random.Generator | None = None,
        change: Change = UNCHANGED,
        visit: int = 0,
    ) -> Sample:
        """Augment, group and project a scan.

        Pixels are those of the points as recorded: augmentation moves the cells, not the link to the images.

        Args:
            index: the scan's position in its data set.
            rng: source of every random draw; needed in training.
            change: of the points, where none is drawn.
            visit: which of its points represents each cell, see :func:`core.data.visits.visited`.

        Raises:
            UserError: no point is left after ``beams`` or ``point_range``, the scan is too large for the cells, an
                image is damaged or the scan has no camera.
        """
        if self.training and rng is None:
            raise ValueError("training samples need a random generator")
        if not self.config.sweeps:
            scan = keyframe_scan(scan)
        scan = thin(scan, self.config.beams)
        kept = self._kept(scan, rng)
        if self.augment is not None and rng is not None:
            change = draw_change(rng, self.augment)
        xyz = move(scan.xyz, change)
        kept = self._outside_box(scan, xyz, kept, rng)
        sensor = moved_sensor(scan.sensor, change)
        grouping = self._grouped(xyz, kept, sensor, scan.token)
        limit = self.config.max_voxels
        if self.training and rng is not None and limit is not None and len(grouping) > limit:
            grouping = _crop(grouping, limit, rng, shift=self.partition.relative)
        points = self._columns(scan, xyz)
        grouping = visited(grouping, points["sweep"], visit)
        sample = Sample(
            token=scan.token,
            index=index,
            points=points,
            features=self.config.features,
            cell_features=self.config.cell_features,
            partition=self.partition,
            grouping=grouping,
            labels=_cell_labels(points["label"], grouping, self.config.label_vote),
            origin=sensor.place,
        )
        if not self.images:
            return sample
        return replace(sample, cameras=self._cameras(scan, rng if self.training else None))

    def _kept(self, scan: Scan, rng: np.random.Generator | None) -> np.ndarray | None:
        """Bool [N] of the points that enter a cell, None for all; the box is that of the recorded coordinates."""
        lost = scan.points.get("no_return")
        kept = None if lost is None else ~lost
        if self.config.point_range is not None:
            low, high = np.array(self.config.point_range, np.float32).reshape(2, 3)
            inside = ((scan.xyz >= low) & (scan.xyz < high)).all(1)
            kept = inside if kept is None else inside & kept
            if not kept.any():
                raise UserError(
                    f"none of the {len(scan.points)} points of scan {scan.token} lies inside data.point_range",
                    cure="Check the range (metres, LiDAR frame), or set data.on_bad_sample: skip",
                )
        if self.augment is None or rng is None or self.augment.dropout == 0:
            return kept
        left = np.arange(len(scan.points)) if kept is None else np.flatnonzero(kept)
        stays = draw_kept(len(left), rng, self.augment.dropout)
        kept = np.zeros(len(scan.points), bool)
        kept[left[stays]] = True
        return kept

    def _outside_box(
        self,
        scan: Scan,
        xyz: np.ndarray,
        kept: np.ndarray | None,
        rng: np.random.Generator | None,
    ) -> np.ndarray | None:
        """The points kept so far without those of a box, unless a camera would see too few."""
        if self.augment is None or rng is None or self.augment.drop_box == 0:
            return kept
        before = np.ones(len(xyz), bool) if kept is None else kept
        rows = np.flatnonzero(before)
        left = before.copy()
        left[rows[draw_box(xyz[rows], rng, self.augment.drop_box)]] = False
        cameras = scan.cameras if self.images else ()
        if not enough_in_sight(scan.xyz, left, cameras, self.augment.drop_box_sight):
            return kept
        return left

    def _grouped(
        self, xyz: np.ndarray, kept: np.ndarray | None, sensor: Sensor, token: str
    ) -> Grouping:
        """The cells of the points where ``kept``; the others get cell -1."""
        try:
            if kept is None:
                return self.partition.group(xyz, sensor)
            part = self.partition.group(xyz[kept], sensor)
        except UserError as error:
            raise UserError(error.what, where=f"scan {token}", cure=error.cure) from error
        of_point = np.full(len(xyz), -1, np.int64)
        of_point[kept] = part.of_point
        return Grouping(part.coords, np.flatnonzero(kept)[part.point], of_point)

    def _columns(self, scan: Scan, xyz: np.ndarray) -> Points:
        """The columns of a sample; see :class:`core.contracts.Sample`."""
        labels = scan.labels
        if labels is None:
            label = np.full(len(xyz), IGNORE, np.int64)
        else:
            label = labels.astype(np.int64)
        extra = {}
        for name, column in scan.points.columns.items():
            passed_over = name in CELL_COLUMNS and name not in self.config.features
            if name not in READ_COLUMNS and not passed_over:
                extra[name] = column
        seen = scan.sensor.seen(scan.xyz)
        config = self.config
        intensity = scan.intensity / np.float32(config.intensity_divisor)
        return Points(
            xyz=xyz,
            lag=scan.time_lag,
            sweep=scan.points["sweep"],
            intensity=intensity + np.float32(config.intensity_offset),
            label=label,
            distance=np.sqrt(np.einsum("ij,ij->i", seen, seen)),
            **extra,
        )

    def _cameras(self, scan: Scan, rng: np.random.Generator | None) -> SampleCameras:
        """The images and where the points lie in them; drawn and augmented where ``rng`` is given."""
        config, cameras = self.config, scan.cameras
        if not cameras and scan.images_optional:
            return SampleCameras.none(len(scan.points), config.planes)
        if not cameras:
            raise UserError(
                f"scan {scan.token} has no camera image, but data.images is on",
                cure="Set data.images: false, or choose a data set (or dataset.cameras) with images",
            )
        wanted = config.train_cameras
        if rng is not None and wanted is not None and wanted < len(cameras):
            chosen = np.sort(rng.choice(len(cameras), wanted, replace=False))
            cameras = tuple(cameras[i] for i in chosen)
        size = config.image_size
        if rng is None and config.image_augment is not None:
            part = config.image_augment.resized_crop
            size = size if part is None else part.size
        pictures = []
        for camera in cameras:
            pictures.append(self._picture(camera, scan, size))
        if rng is not None and config.image_augment is not None:
            pictures = [augment_aligned(picture, rng, config.image_augment) for picture in pictures]
        images = _stack([picture.image for picture in pictures], cameras, scan.token)
        planes = {}
        for name in config.planes:
            planes[name] = np.stack([picture.planes[name] for picture in pictures])
        return SampleCameras(
            images=images,
            pixels=np.stack([picture.pixels for picture in pictures]),
            visible=np.stack([picture.visible for picture in pictures]),
            areas=np.stack([picture.areas for picture in pictures]),
            planes=planes,
        )

    def _picture(self, camera: Camera, scan: Scan, size: tuple[int, int] | None) -> Picture:
        """One camera's image in ``size``, and where the points as recorded lie in it."""
        image = decode_image(camera, size)
        height, width = image.shape[:2]
        pixels, visible, areas = project_points(scan.xyz, camera, (width, height))
        if scan.pasted is not None:  # no image shows them
            pixels[scan.pasted] = 0
            visible[scan.pasted] = False
            areas[scan.pasted] = NO_AREA
        return Picture(image, pixels, visible, areas, self._planes(camera, image))

    def _planes(self, camera: Camera, image: np.ndarray) -> dict[str, np.ndarray]:
        """The maps that ``data.planes`` names, i64 [H, W] in the size of the image; nearest where they are resized.

        Raises:
            UserError: the camera has no such map.
        """
        planes = {}
        for name in self.config.planes:
            if name not in camera.planes:
                raise UserError(
                    f"camera {camera.name} has no map '{name}'",
                    where="data.planes",
                    cure=f"It has {', '.join(camera.planes) or 'none'}",
                )
            plane = camera.planes[name]()
            whole = Box(0, 0, plane.shape[1], plane.shape[0])
            size = (image.shape[1], image.shape[0])
            planes[name] = nearest(plane, whole, size).astype(np.int64)
        return planes


def make_sample(
    scan: Scan,
    index: int,
    config: DataConfig,
    *,
    training: bool = False,
    rng: np.random.Generator | None = None,
    change: Change | None = None,
) -> Sample:
    """:meth:`Recipe.sample` for a single scan."""
    if training and change is not None:
        raise ValueError("a training sample draws its change")
    return Recipe.of(config, training).sample(scan, index, rng, change or UNCHANGED)


def keyframe_scan(scan: Scan) -> Scan:
    """The keyframe's own points alone, in their order; the same scan if it has no others."""
    keyframe = scan.keyframe
    if keyframe.all():
        return scan
    return replace(scan, points=scan.points.take(keyframe))


def moved_sensor(sensor: Sensor, change: Change) -> Sensor:
    """The scanner in the frame of points after ``change``; its shift is taken as noise in the scanner's place."""
    if not any(sensor.origin):
        return sensor
    place = move(sensor.place[None], replace(change, shift=(0.0, 0.0, 0.0)))[0]
    return replace(sensor, origin=tuple(place.tolist()))


def _crop(grouping: Grouping, size: int, rng: np.random.Generator, *, shift: bool) -> Grouping:
    """Keep the ``size`` cells nearest to a random one, in their order (ties: the earlier cell).

    Args:
        shift: count the coordinates from the smallest again.
    """
    coords = grouping.coords
    offset = coords.astype(np.int64) - coords[int(rng.integers(len(coords)))]
    nearest = np.sort(np.argsort((offset * offset).sum(1), kind="stable")[:size])
    # One entry more than there are cells, so that -1, the points of none, looks itself up at the end.
    new_row = np.full(len(coords) + 1, -1, np.int64)
    new_row[nearest] = np.arange(size)
    coords = coords[nearest]
    if shift:
        coords = coords - coords.min(0)
    return Grouping(coords, grouping.point[nearest], new_row[grouping.of_point])


def _cell_labels(labels: np.ndarray, grouping: Grouping, vote: str) -> np.ndarray:
    """I64 [V]: the representative's label, or the most frequent one."""
    if vote == "first":
        return labels[grouping.point]
    voted = majority_labels(
        torch.from_numpy(labels),
        torch.from_numpy(grouping.of_point),
        len(grouping),
        int(labels.max(initial=0)) + 1,
        ignore_votes=False,
    )
    return voted.numpy()


def project_points(
    points: np.ndarray, camera: Camera, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where points fall in an image of ``size`` (width, height) px, to be interpolated and to be looked up.

    For interpolation the units are those of ``grid_sample(align_corners=True)``: ``u' = 2u / (W - 1) - 1`` and
    ``v' = 2v / (H - 1) - 1`` with the recorded size, so that -1 and 1 are the centres of the outermost pixels. To be
    looked up, a point lies on the area of the recorded pixel ``floor(u), floor(v)``, and where the image is resized on
    the area that this pixel's first corner has gone to, as published (2DPASS).

    Args:
        points: f32 [N, 3] m, LiDAR frame, not augmented.

    Returns:
        pixels f32 [N, 2], 0 where not visible; visible bool [N]; areas i16 [N, 2], -1 where on none; see
        :class:`SampleCameras`.
    """
    uv, depth, visible = camera.project(points)
    recorded = np.array(camera.size, np.float32)
    pixels = np.where(visible[:, None], 2 * uv / (recorded - 1) - 1, np.float32(0))
    inside: np.ndarray = (uv > 0) & (uv < recorded)
    on_area = inside.all(1) & (depth > camera.min_depth)
    index = np.where(on_area[:, None], uv, 0).astype(np.int64)  # floor: none is negative
    resized = index * np.array(size) // np.array(camera.size)
    areas = np.where(on_area[:, None], resized, NO_AREA).astype(np.int16)
    return pixels, visible, areas


def decode_image(camera: Camera, size: tuple[int, int] | None) -> np.ndarray:
    """Decode and resize the image of a camera: u8 [H, W, 3].

    Args:
        size: px (width, height); None = as recorded.

    Raises:
        UserError: the image is damaged.
    """
    return _resize(camera.load(), size)


def _stack(images: Sequence[np.ndarray], cameras: Sequence[Camera], token: str) -> np.ndarray:
    """U8 [H, W, 3] each -> f32 [K, 3, H, W] in 0..1.

    Raises:
        UserError: the sizes differ; it names the cameras and the scan ``token``.
    """
    if len({image.shape for image in images}) > 1:
        found = ", ".join(f"{c.name} {i.shape[1]}x{i.shape[0]}" for c, i in zip(cameras, images))
        raise UserError(
            f"the images of scan {token} differ in size ({found} px)",
            cure="Set data.image_size: [width, height] or data.image_augment.crop, or choose cameras of one size with "
            "dataset.cameras",
        )
    stacked = np.stack(images).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(stacked, np.float32) * np.float32(1 / 255)


def _resize(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or image.shape[1::-1] == tuple(size):
        return image
    from PIL import Image  # jobs without cameras never import it

    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))

"""One scan to one augmented, voxelised view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from core.contracts import IGNORE, Camera, Sample, Scan
from core.data.augment import View, augment, draw_kept, move
from core.data.config import DataConfig
from core.data.image_augment import augment_image
from core.data.voxelize import majority_labels, voxelize
from core.errors import UserError

__all__ = ["decode_images", "keyframe_scan", "make_sample", "project_points"]


def make_sample(
    scan: Scan,
    index: int,
    config: DataConfig,
    *,
    training: bool = False,
    rng: np.random.Generator | None = None,
    view: View | None = None,
) -> Sample:
    """Augment, voxelise and project a scan.

    Pixels are those of the points as recorded: augmentation moves the voxels, not the link to the images.

    Args:
        index: the scan's position in its data set.
        training: augment, crop to ``max_voxels`` and draw cameras, as far as ``config`` asks.
        rng: source of every random draw; needed when ``training``.
        view: not in training: a given change of the points in place of a drawn one; None = as recorded.

    Raises:
        UserError: no point is left after ``point_range``, the scan is too large for the voxels, an image is damaged or
            the scan has no camera.
    """
    if training and rng is None:
        raise ValueError("training samples need a random generator")
    if training and view is not None:
        raise ValueError("a training sample draws its view")
    if not config.sweeps:
        scan = keyframe_scan(scan)
    kept = _kept_points(scan, config, rng if training else None)
    points = scan.points
    if training and config.augment is not None:
        points = augment(points, rng, config.augment)
    elif view is not None:
        points = move(points, view)
    coords, voxel_to_point, point_to_voxel = _voxelize_kept(
        points, kept, config.voxel_size, scan.token
    )
    if training and config.max_voxels is not None and len(coords) > config.max_voxels:
        coords, voxel_to_point, point_to_voxel = _crop(
            coords, voxel_to_point, point_to_voxel, config.max_voxels, rng
        )

    count = len(scan.points)
    point_labels = (
        np.full(count, IGNORE, np.int64) if scan.labels is None else scan.labels.astype(np.int64)
    )
    intensity = scan.intensity[voxel_to_point] / np.float32(config.intensity_divisor)
    sample = Sample(
        token=scan.token,
        index=index,
        coords=coords,
        feats=np.column_stack([points[voxel_to_point], intensity]).astype(np.float32, copy=False),
        labels=_voxel_labels(point_labels, scan.keyframe, voxel_to_point, point_to_voxel, config),
        point_to_voxel=point_to_voxel,
        voxel_to_point=voxel_to_point,
        point_labels=point_labels,
        keyframe=scan.keyframe,
        distance=np.sqrt(np.einsum("ij,ij->i", scan.points, scan.points)),
    )
    return (
        _with_images(sample, scan, config, rng if training else None)
        if config.uses_images(training)
        else sample
    )


def keyframe_scan(scan: Scan) -> Scan:
    """The keyframe's own points alone, in their order; the same scan if it has no others."""
    own = scan.keyframe
    if own.all():
        return scan
    return replace(
        scan,
        points=scan.points[own],
        intensity=scan.intensity[own],
        labels=None if scan.labels is None else scan.labels[own],
        instances=None if scan.instances is None else scan.instances[own],
        time_lag=scan.time_lag[own],
        pasted=None if scan.pasted is None else scan.pasted[own],
    )


def _kept_points(
    scan: Scan, config: DataConfig, rng: np.random.Generator | None
) -> np.ndarray | None:
    """Bool [N] of the points that enter a voxel, or None for all; the box is that of the recorded coordinates."""
    kept = None
    if config.point_range is not None:
        low, high = np.array(config.point_range, np.float32).reshape(2, 3)
        kept = ((scan.points >= low) & (scan.points < high)).all(1)
        if not kept.any():
            raise UserError(
                f"none of the {len(scan.points)} points of scan {scan.token} lies inside data.point_range",
                cure="Check the range (metres, LiDAR frame), or set data.on_bad_sample: skip",
            )
    if rng is not None and config.augment is not None and config.augment.dropout > 0:
        left = np.arange(len(scan.points)) if kept is None else np.flatnonzero(kept)
        stays = draw_kept(len(left), rng, config.augment.dropout)
        kept = np.zeros(len(scan.points), bool)
        kept[left[stays]] = True
    return kept


def _voxelize_kept(
    points: np.ndarray, kept: np.ndarray | None, voxel_size: float, token: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`voxelize` of the points where ``kept``; the others get voxel -1."""
    try:
        if kept is None:
            return voxelize(points, voxel_size)
        coords, first, inverse = voxelize(points[kept], voxel_size)
    except UserError as error:
        raise UserError(error.what, where=f"scan {token}", cure=error.cure) from error
    point_to_voxel = np.full(len(points), -1, np.int64)
    point_to_voxel[kept] = inverse
    return coords, np.flatnonzero(kept)[first], point_to_voxel


def _crop(
    coords: np.ndarray,
    voxel_to_point: np.ndarray,
    point_to_voxel: np.ndarray,
    size: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keep the ``size`` voxels nearest to a random one, in their order (ties: the earlier voxel)."""
    offset = coords.astype(np.int64) - coords[int(rng.integers(len(coords)))]
    nearest = np.sort(np.argsort((offset * offset).sum(1), kind="stable")[:size])
    # One entry more than there are voxels, so that -1, the points of none, looks itself up at the end.
    new_row = np.full(len(coords) + 1, -1, np.int64)
    new_row[nearest] = np.arange(size)
    coords = coords[nearest]
    return coords - coords.min(0), voxel_to_point[nearest], new_row[point_to_voxel]


def _voxel_labels(
    point_labels: np.ndarray,
    keyframe: np.ndarray,
    voxel_to_point: np.ndarray,
    point_to_voxel: np.ndarray,
    config: DataConfig,
) -> np.ndarray:
    """I64 [V]; a voxel whose representative belongs to another sweep is ignored."""
    if config.label_vote == "majority":
        labels = majority_labels(
            np.where(keyframe, point_labels, IGNORE), point_to_voxel, len(voxel_to_point)
        )
    else:
        labels = point_labels[voxel_to_point]
    return np.where(keyframe[voxel_to_point], labels, IGNORE)


def _with_images(
    sample: Sample, scan: Scan, config: DataConfig, rng: np.random.Generator | None
) -> Sample:
    cameras = scan.cameras
    if not cameras:
        raise UserError(
            f"scan {scan.token} has no camera image, but data.images is on",
            cure="Set data.images: false, or choose a data set (or dataset.cameras) with images",
        )
    if rng is not None and config.train_cameras is not None and config.train_cameras < len(cameras):
        chosen = np.sort(rng.choice(len(cameras), config.train_cameras, replace=False))
        cameras = tuple(cameras[i] for i in chosen)
    pixels, visible = project_points(scan.points[sample.voxel_to_point], cameras)
    if scan.pasted is not None:
        unseen = scan.pasted[sample.voxel_to_point]
        visible[:, unseen], pixels[:, unseen] = False, 0
    images = decode_images(cameras, config.image_size)
    if rng is not None and config.image_augment is not None:
        for k, image in enumerate(images):
            images[k], pixels[k], visible[k] = augment_image(
                image, pixels[k], visible[k], rng, config.image_augment
            )
    return replace(
        sample, images=_stack(images, cameras, scan.token), pixels=pixels, visible=visible
    )


def project_points(points: np.ndarray, cameras: Sequence[Camera]) -> tuple[np.ndarray, np.ndarray]:
    """Where points fall in each image, in the units of ``grid_sample(align_corners=True)``.

    ``u' = 2u / (W - 1) - 1`` and ``v' = 2v / (H - 1) - 1`` with the recorded size, so that -1 and 1 are the centres of
    the outermost pixels, whatever size the image is resized to.

    Args:
        points: f32 [V, 3] m, LiDAR frame, not augmented.

    Returns:
        pixels f32 [K, V, 2], 0 where not visible; visible bool [K, V].
    """
    pixels = np.zeros((len(cameras), len(points), 2), np.float32)
    visible = np.zeros((len(cameras), len(points)), bool)
    for k, camera in enumerate(cameras):
        uv, _, visible[k] = camera.project(points)
        size = np.array(camera.size, np.float32)
        pixels[k] = np.where(visible[k][:, None], 2 * uv / (size - 1) - 1, 0)
    return pixels, visible


def decode_images(cameras: Sequence[Camera], size: tuple[int, int] | None) -> list[np.ndarray]:
    """Decode and resize the images of one scan: u8 [H, W, 3] each.

    Args:
        size: px (width, height); None = as recorded.

    Raises:
        UserError: an image is damaged.
    """
    return [_resize(camera.load(), size) for camera in cameras]


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

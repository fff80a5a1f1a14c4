"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from core.contracts import Batch, Sample
from core.errors import UserError

__all__ = ["collate"]


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples; rows of voxels and points are shifted to those of the joined arrays, -1 stays -1.

    Raises:
        UserError: some samples have images and others none, or their number or size differs.
    """
    voxels = _offsets([len(sample.coords) for sample in samples])
    points = _offsets([len(sample.point_labels) for sample in samples])
    to_voxel = [
        np.where(s.point_to_voxel < 0, -1, s.point_to_voxel + o) for s, o in zip(samples, voxels)
    ]
    with_images = _check_images(samples)
    return Batch(
        tokens=tuple(sample.token for sample in samples),
        indices=tuple(sample.index for sample in samples),
        padded=tuple(sample.padded for sample in samples),
        coords=_join_coords([sample.coords for sample in samples], voxels),
        feats=_join([sample.feats for sample in samples]),
        labels=_join([sample.labels for sample in samples]),
        point_to_voxel=_join(to_voxel),
        voxel_to_point=_join(
            [sample.voxel_to_point + offset for sample, offset in zip(samples, points)]
        ),
        point_labels=_join([sample.point_labels for sample in samples]),
        keyframe=_join([sample.keyframe for sample in samples]),
        distance=_join([sample.distance for sample in samples]),
        voxel_offsets=torch.from_numpy(voxels),
        point_offsets=torch.from_numpy(points),
        images=torch.from_numpy(np.stack([sample.images for sample in samples]))
        if with_images
        else None,
        pixels=_join([sample.pixels for sample in samples], axis=1) if with_images else None,
        visible=_join([sample.visible for sample in samples], axis=1) if with_images else None,
        skipped=tuple(line for sample in samples for line in sample.skipped),
    )


def _offsets(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _join(arrays: Sequence[np.ndarray], axis: int = 0) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays, axis))


def _join_coords(coords: Sequence[np.ndarray], offsets: np.ndarray) -> Tensor:
    joined = np.empty((offsets[-1], 4), np.int32)
    joined[:, 0] = np.repeat(np.arange(len(coords), dtype=np.int32), np.diff(offsets))
    joined[:, 1:] = np.concatenate(coords)
    return torch.from_numpy(joined)


def _check_images(samples: Sequence[Sample]) -> bool:
    shapes = {None if sample.images is None else sample.images.shape for sample in samples}
    if len(shapes) > 1:
        found = ", ".join(
            f"{s.token} {'none' if s.images is None else s.images.shape}" for s in samples
        )
        raise UserError(
            f"the images of a batch differ in number or size, [cameras, 3, height, width]: {found}",
            cure="Set data.image_size: [width, height], and give all scans the same dataset.cameras",
        )
    return shapes != {None}

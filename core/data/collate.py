"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from core.contracts import Batch, BatchCameras, Cells, Sample, SampleCameras
from core.data.picture import NO_AREA
from core.errors import UserError

__all__ = ["collate"]

# [K, 3, H, W] where no sample has an image: of nothing, but a shape that networks take.
_NO_IMAGE = (1, 3, 32, 32)


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples; rows of cells and points are shifted to those of the joined arrays, -1 stays -1.

    Raises:
        UserError: the images of samples that have some differ in number or size; or a column of ``dataset.columns`` is
            missing in some.
    """
    cells = _offsets([len(sample.grouping) for sample in samples])
    points = _offsets([len(sample.points) for sample in samples])
    return Batch(
        tokens=tuple(sample.token for sample in samples),
        indices=tuple(sample.index for sample in samples),
        padded=tuple(sample.padded for sample in samples),
        points={name: _join([s.points[name] for s in samples]) for name in _columns(samples)},
        point_offsets=torch.from_numpy(points),
        features=samples[0].features,
        cells=_join_cells(samples, cells, points),
        cell_features=samples[0].cell_features,
        origins=torch.from_numpy(np.stack([sample.origin for sample in samples])),
        cameras=_join_cameras(samples),
        skipped=tuple(line for sample in samples for line in sample.skipped),
        contents=tuple(sample.content for sample in samples),
    )


def _offsets(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _join(arrays: Sequence[np.ndarray], axis: int = 0) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays, axis))


def _stack(arrays: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))


def _columns(samples: Sequence[Sample]) -> list[str]:
    names = list(samples[0].points)
    for sample in samples[1:]:
        if set(sample.points) != set(names):
            differing = sorted(set(sample.points) ^ set(names))
            raise UserError(
                f"scans {samples[0].token} and {sample.token} do not have the same columns: "
                f"{', '.join(differing)}",
                where="dataset.columns",
                cure="Give every scan the same columns, or leave them out",
            )
    return names


def _join_cells(samples: Sequence[Sample], cells: np.ndarray, points: np.ndarray) -> Cells:
    groupings = [sample.grouping for sample in samples]
    coords = np.empty((cells[-1], samples[0].coords.shape[1] + 1), np.int32)
    coords[:, 0] = np.repeat(np.arange(len(samples), dtype=np.int32), np.diff(cells))
    coords[:, 1:] = np.concatenate([sample.coords for sample in samples])
    return Cells(
        partition=samples[0].partition,
        coords=torch.from_numpy(coords),
        of_point=_shifted([grouping.of_point for grouping in groupings], cells),
        point=_shifted([grouping.point for grouping in groupings], points),
        labels=_join([sample.labels for sample in samples]),
        offsets=torch.from_numpy(cells),
    )


def _shifted(rows: Sequence[np.ndarray], firsts: np.ndarray) -> Tensor:
    """Row numbers of each sample, i64, as those of the joined array; -1 stays -1."""
    joined = np.empty(sum(map(len, rows)), np.int64)
    end = 0
    for own, first in zip(rows, firsts):
        begin, end = end, end + len(own)
        part = joined[begin:end]
        np.add(own, first, out=part)
        part[own < 0] = -1
    return torch.from_numpy(joined)


def _join_cameras(samples: Sequence[Sample]) -> BatchCameras | None:
    """The images of the samples that have some; no camera sees a point of the others."""
    views = [sample.cameras for sample in samples if sample.cameras is not None]
    if not views:
        return None
    _check_images(samples)
    with_images = np.array([len(view) > 0 for view in views])
    having = [view for view in views if len(view)]
    cameras, *size = having[0].images.shape if having else _NO_IMAGE
    seeing = [view if len(view) else _blind(view, cameras) for view in views]
    images, planes = _images_of(having, (cameras, *size), views[0].planes)
    return BatchCameras(
        rows=torch.from_numpy(np.where(with_images, np.cumsum(with_images) - 1, -1)),
        images=images,
        pixels=_join([view.pixels for view in seeing], axis=1),
        visible=_join([view.visible for view in seeing], axis=1),
        areas=_join([view.areas for view in seeing], axis=1),
        planes=planes,
    )


def _images_of(
    having: Sequence[SampleCameras], shape: tuple[int, ...], names: Iterable[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Images and planes of the samples that have some; without any, tensors of no row that networks take all the same.

    Args:
        shape: [K, 3, H, W] of a sample's images. names: of the planes.
    """
    if having:
        images = _stack([view.images for view in having])
        return images, {name: _stack([view.planes[name] for view in having]) for name in names}
    cameras, _, *size = shape
    planes = {name: torch.zeros((0, cameras, *size), dtype=torch.int64) for name in names}
    return torch.zeros((0, *shape)), planes


def _blind(view: SampleCameras, cameras: int) -> SampleCameras:
    """A view without images as one whose ``cameras`` see none of its points."""
    points = view.visible.shape[1]
    return replace(
        view,
        pixels=np.zeros((cameras, points, 2), np.float32),
        visible=np.zeros((cameras, points), bool),
        areas=np.full((cameras, points, 2), NO_AREA, np.int16),
    )


def _check_images(samples: Sequence[Sample]) -> None:
    shapes = {None if s.images is None else s.images.shape for s in samples}
    shapes = {shape for shape in shapes if shape is None or shape[0] > 0}
    if len(shapes) > 1:
        found = []
        for sample in samples:
            shape = "none" if sample.images is None else str(sample.images.shape)
            found.append(f"{sample.token} {shape}")
        raise UserError(
            f"the images of a batch differ in number or size, [cameras, 3, height, width]: {', '.join(found)}",
            cure="Set data.image_size: [width, height], and give all scans the same dataset.cameras",
        )

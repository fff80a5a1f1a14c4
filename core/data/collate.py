"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from core.contracts import Batch, BatchCameras, Cells, Sample
from core.errors import UserError

__all__ = ["collate"]


def collate(samples: Sequence[Sample]) -> Batch:
    """Join samples; rows of cells and points are shifted to those of the joined arrays, -1 stays -1.

    Raises:
        UserError: some samples have images and others none, or their number or size differs; or a column of
            ``dataset.columns`` is missing in some.
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
    _check_images(samples)
    cameras = [sample.cameras for sample in samples if sample.cameras is not None]
    if not cameras:
        return None
    planes = {}
    for name in cameras[0].planes:
        planes[name] = _stack([camera.planes[name] for camera in cameras])
    return BatchCameras(
        images=_stack([camera.images for camera in cameras]),
        pixels=_join([camera.pixels for camera in cameras], axis=1),
        visible=_join([camera.visible for camera in cameras], axis=1),
        areas=_join([camera.areas for camera in cameras], axis=1),
        planes=planes,
    )


def _check_images(samples: Sequence[Sample]) -> None:
    shapes = {None if sample.images is None else sample.images.shape for sample in samples}
    if len(shapes) > 1:
        found = []
        for sample in samples:
            shape = "none" if sample.images is None else str(sample.images.shape)
            found.append(f"{sample.token} {shape}")
        raise UserError(
            f"the images of a batch differ in number or size, [cameras, 3, height, width]: {', '.join(found)}",
            cure="Set data.image_size: [width, height], and give all scans the same dataset.cameras",
        )

"""Samples put together by hand: features, labels and links of cells, without a scan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from core.contracts import Batch, BatchCameras, Grouping, Points, Sample, SampleCameras
from core.data.partitions import Voxels

__all__ = [
    "doubled",
    "made_sample",
    "reordered",
    "unlike_new",
    "with_cameras_in_order",
    "with_coords",
    "with_labels",
    "with_visible",
    "without_images",
]


def made_sample(
    token: str,
    index: int,
    coords: np.ndarray,
    feats: np.ndarray,
    labels: np.ndarray,
    point_to_voxel: np.ndarray,
    voxel_to_point: np.ndarray,
    point_labels: np.ndarray,
    keyframe: np.ndarray,
    distance: np.ndarray,
    images: np.ndarray | None = None,
    pixels: np.ndarray | None = None,
    visible: np.ndarray | None = None,
    **options: object,
) -> Sample:
    """A sample of cells [V] with features f32 [V, 4]; points share those of their cell. Pixels are given per cell."""
    of_point = np.asarray(point_to_voxel)
    spread = np.concatenate([feats, np.zeros((1, feats.shape[1]), feats.dtype)])[of_point]
    cameras = None
    if images is not None:
        nowhere = np.zeros((len(images), 1, 2), np.float32)
        of_points = np.concatenate([pixels, nowhere], 1)[:, of_point]
        seen = np.concatenate([visible, np.zeros((len(images), 1), bool)], 1)[:, of_point]
        areas = areas_of(torch.from_numpy(of_points), torch.from_numpy(seen), images.shape[2:])
        cameras = SampleCameras(images, of_points, seen, areas.numpy())
    points = Points(
        xyz=spread[:, :3],
        lag=np.where(keyframe, 0, 0.1).astype(np.float32),
        sweep=np.where(keyframe, 0, 1).astype(np.int16),
        intensity=spread[:, 3],
        label=np.asarray(point_labels, np.int64),
        distance=distance,
    )
    return Sample(
        token=token,
        index=index,
        points=points,
        features=("xyz", "intensity"),
        partition=Voxels(),
        grouping=Grouping(coords, np.asarray(voxel_to_point), of_point),
        labels=np.asarray(labels, np.int64),
        origin=np.zeros(3, np.float32),
        cameras=cameras,
        **options,
    )


def areas_of(pixels: Tensor, visible: Tensor, size: tuple[int, int]) -> Tensor:
    """The pixels of an image of ``size`` (rows, columns) that places [-1, 1] fall on, -1 where not visible."""
    at = (pixels.double() + 1) / 2 * (torch.tensor(size).flip(0) - 1)
    return torch.where(visible[..., None], at.floor(), -1.0).to(torch.int16)


def doubled(batch: Batch) -> Batch:
    """Features and images in float64."""
    columns = {name: batch.points[name].double() for name in batch.features}
    cameras = batch.cameras
    if cameras is not None:
        cameras = replace(cameras, images=cameras.images.double())
    return replace(batch, points={**batch.points, **columns}, cameras=cameras)


def unlike_new(network: nn.Module) -> nn.Module:
    """The network with batch norms that are far from the identity."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.3, 0.3, generator=generator)
    return network


def without_images(batch: Batch) -> Batch:
    """The same batch of a view without cameras."""
    return replace(batch, cameras=None)


def reordered(batch: Batch, order: Tensor) -> Batch:
    """The same batch with its cells in another order."""
    cells = batch.cells
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    inside = cells.of_point >= 0
    of_point = torch.where(inside, place[cells.of_point.clamp_min(0)], -1)
    moved = replace(
        cells,
        coords=cells.coords[order],
        point=cells.point[order],
        labels=cells.labels[order],
        of_point=of_point,
    )
    return replace(batch, cells=moved)


def with_coords(batch: Batch, coords: Tensor) -> Batch:
    """The same batch with its cells elsewhere."""
    return replace(batch, cells=replace(batch.cells, coords=coords))


def with_visible(batch: Batch, visible: Tensor) -> Batch:
    """The same batch whose cells [SV] are seen as told; every point has a cell of its own."""
    areas = areas_of(batch.cameras.pixels, visible, batch.images.shape[-2:])
    return replace(batch, cameras=replace(batch.cameras, visible=visible, areas=areas))


def with_labels(batch: Batch, labels: Tensor) -> Batch:
    """The same batch with other labels of its cells."""
    return replace(batch, cells=replace(batch.cells, labels=labels))


def with_cameras_in_order(batch: Batch, order: Tensor) -> Batch:
    """The same batch with its cameras in another order."""
    cameras = batch.cameras
    rows = (cameras.pixels[order], cameras.visible[order], cameras.areas[order])
    shuffled = BatchCameras(cameras.rows, cameras.images[:, order], *rows)
    return replace(batch, cameras=shuffled)

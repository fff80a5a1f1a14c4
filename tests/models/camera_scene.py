"""Small scans with cameras, for the tests of the LiDAR-camera student."""

from __future__ import annotations

import numpy as np
from made_samples import doubled, made_sample

from core.contracts import Batch, Sample
from core.data import collate

__all__ = ["camera_batch", "camera_sample", "double"]

SIZE = (24, 40)  # px, rows and columns


def camera_sample(seed: int, cameras: int = 3, voxels: int = 300, seen: float = 0.35) -> Sample:
    """A crowded random scan; each camera sees a random share of the voxels."""
    rng = np.random.default_rng(seed)
    coords = np.unique(rng.integers(0, 24, (voxels, 3)), axis=0).astype(np.int32)
    count = len(coords)
    rows = np.arange(count)
    feats = np.column_stack([coords * 0.1, rng.random(count)]).astype(np.float32)
    labels = rng.integers(0, 17, count)
    visible = rng.random((cameras, count)) < seen
    pixels = np.where(
        visible[..., None], rng.uniform(-0.999, 0.999, (cameras, count, 2)), 0
    ).astype(np.float32)
    images = rng.random((cameras, 3, *SIZE)).astype(np.float32)
    return made_sample(
        f"s{seed}", seed, coords, feats, labels, rows, rows, labels, np.ones(count, bool), np.zeros(count, np.float32),
        images, pixels, visible,
    )  # fmt: skip


def camera_batch(*seeds: int, **options) -> Batch:
    """Some of these scans in one batch."""
    return collate([camera_sample(seed, **options) for seed in seeds])


def double(batch: Batch) -> Batch:
    """Features and images in float64."""
    return doubled(batch)

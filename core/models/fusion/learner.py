"""Pseudo-image features: what a camera would have seen at a point, guessed from its LiDAR features."""

from __future__ import annotations

from torch import nn

from core.models.layers import PointBatchNorm

__all__ = ["learner"]


def learner(points: int, image: int) -> nn.Sequential:
    """Linear - BN - ReLU - Linear - BN, [P, points] -> [P, image]."""
    return nn.Sequential(
        nn.Linear(points, image), PointBatchNorm(image), nn.ReLU(inplace=True), nn.Linear(image, image),
        PointBatchNorm(image),
    )  # fmt: skip

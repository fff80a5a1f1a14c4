"""ScaLR (Puy et al., CVPR 2024): points take on the features of the pixels they fall on; no contrast, no labels."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from core.contracts import Batch
from core.distill.base import Method, TeacherOutput
from core.distill.images import ImageTeaching, Pairs, looked_up
from core.labels import LabelSpace
from core.models.image.features import FeatureConfig, encoder_width

__all__ = ["ScaLR"]


class TransformerConfig(FeatureConfig):
    """``distill.image:`` section of ScaLR."""

    encoder: str = Field(
        "vit_large_patch14_dinov2.lvd142m",
        description="resnet18, resnet34, resnet50, swiftnet, or any network of timm by its name; published: DINOv2 "
        "ViT-L/14",
    )


class ScaLR(ImageTeaching):
    """Distance between unit features of points and of pixels; see :class:`core.distill.images.ImageTeaching`.

    One camera of each scan, drawn at random, teaches: ``data.train_cameras: 1``.
    """

    class Config(ImageTeaching.Config):
        """``distill:`` section."""

        name: Literal["scalr"] = Field(description="the method")
        image: TransformerConfig = Field(
            TransformerConfig(),
            description="the image network, frozen; the LiDAR network has as many outputs",
        )

    @classmethod
    def outputs(cls, config: Method.Config, labels: LabelSpace) -> int:
        """Channels of the image network."""
        assert isinstance(config, ScaLR.Config), "the section of this method"
        return encoder_width(config.image)

    def forward(self, batch: Batch, teacher: TeacherOutput | None = None) -> dict[str, Tensor]:
        """``distance``: mean Euclidean distance of the pairs' features."""
        pairs = Pairs.of(batch)
        assert batch.cameras is not None, "there are pairs"
        feats, rows = self.embeddings(batch)
        points = looked_up(feats, rows.index_select(0, pairs.point))
        images = batch.cameras.images.flatten(0, 1)
        pixels = self.image.at(images, pairs.image, pairs.column, pairs.row)
        distance = torch.linalg.vector_norm(points - pixels, dim=1)
        return {"distance": distance.sum() / max(len(distance), 1)}

"""SLidR (Sautier et al., CVPR 2022): superpixels of images teach a LiDAR network, without labels.

The embeddings of the points that fall on a superpixel are averaged, and so are those of all its pixels; each average of
points has to pick its own superpixel among all of the batch that some point falls on. The averages keep the length they
have, which tells how uniform a region is. Each process contrasts its own batch.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from core.contracts import Batch
from core.distill.base import Needs, TeacherOutput
from core.distill.images import Embedding, Pairs, info_nce
from core.fast.plain import REGION_EPSILON
from core.models.image.features import FeatureConfig
from core.names import SUPERPIXELS
from core.sparse import gather_sum
from core.sparse.points import GatherTable

__all__ = ["SLidR", "pooled"]

_LABELS = 1 << 16  # superpixels of an image; files hold 16 bits


class DilatedConfig(FeatureConfig):
    """``distill.image:`` section of SLidR."""

    dilated: bool = Field(
        True,
        description="ResNet-50: dilation in place of the strides of the last three stages, for a map of stride 4",
    )


class SLidR(Embedding):
    """Superpixels contrasted with superpoints; see :class:`core.distill.images.ImageTeaching`."""

    class Config(Embedding.Config):
        """``distill:`` section; defaults are those of the published models."""

        name: Literal["slidr"] = Field(description="the method")
        image: DilatedConfig = Field(DilatedConfig(), description="the image network, frozen")

        @property
        def needs(self) -> Needs:
            """Images and their superpixels, and no labels."""
            return Needs(labels=False, images=True, planes=(SUPERPIXELS,))

    def forward(self, batch: Batch, teacher: TeacherOutput | None = None) -> dict[str, Tensor]:
        """``contrast``: InfoNCE over the superpixels that some point falls on."""
        config = self.config
        assert isinstance(config, SLidR.Config), "the section of this method"
        pairs = Pairs.of(batch)
        assert batch.cameras is not None, "there are pairs"
        labels = batch.cameras.planes[SUPERPIXELS].flatten(0, 1)
        found = labels[pairs.image, pairs.row, pairs.column]
        pairs, found = pairs.take(found >= 0), found[found >= 0]
        slots, anchor = torch.unique(pairs.image * _LABELS + found, return_inverse=True)
        feats, rows = self.embeddings(batch)
        points = pooled(feats, rows.index_select(0, pairs.point), anchor, len(slots))
        images = batch.cameras.images.flatten(0, 1)
        regions = self.image.means(images, _regions_of(labels, slots), len(slots))
        return {"contrast": info_nce(points, regions, config.temperature)}


def _regions_of(labels: Tensor, slots: Tensor) -> Tensor:
    """Which of some superpixels each pixel belongs to, i64 [N, H, W], -1 = none of them.

    Args:
        labels: i64 [N, H, W], -1 = none. slots: i64 [n], ``image * _LABELS + label``, ascending.
    """
    table = slots.new_full((len(labels) * _LABELS,), -1)
    table[slots] = torch.arange(len(slots), device=slots.device)
    first = torch.arange(len(labels), device=slots.device)[:, None, None] * _LABELS
    return torch.where(labels >= 0, table[first + labels.clamp_min(0)], -1)


def pooled(feats: Tensor, rows: Tensor, groups: Tensor, count: int) -> Tensor:
    """Mean of ``feats[rows]`` in each of ``count`` groups, [count, C]; not of length 1 again.

    Args:
        feats: [R, C]. rows, groups: i64 [E].
    """
    sizes = torch.zeros(count, dtype=torch.float32, device=feats.device)
    sizes.scatter_add_(0, groups, torch.ones_like(groups, dtype=torch.float32))
    weight = 1.0 / (sizes.index_select(0, groups) + REGION_EPSILON)
    return gather_sum(feats, GatherTable.from_entries(groups, rows, weight, count, len(feats)))

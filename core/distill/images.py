"""What the methods share that teach LiDAR networks with image features, without labels.

A pair is a point and the pixel of a camera that it falls on. Nothing tests whether something hides the point there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from core.contracts import Batch, Output
from core.distill.base import Method, Needs
from core.distill.score import LAST_LOSS, Score
from core.errors import UserError
from core.labels import LabelSpace
from core.losses import CrossEntropyLovasz
from core.models.image.features import FeatureConfig, ImageFeatures
from core.sparse import gather_sum
from core.sparse.points import GatherTable

__all__ = ["Embedding", "ImageTeaching", "Pairs", "info_nce", "looked_up"]


@dataclass(frozen=True)
class Pairs:
    """Points of keyframes that have a cell, and the pixels they fall on; by camera, then point.

    Attributes:
        point: i64 [M], row of the batch's points. image: i64 [M], row of its images, all cameras in one list.
        column, row: i64 [M], of the nearest pixel.
    """

    point: Tensor
    image: Tensor
    column: Tensor
    row: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Pairs:
        """The pairs of a batch with images; a point that two cameras see is in two.

        Raises:
            UserError: it has none.
        """
        cameras = batch.cameras
        if cameras is None:
            raise UserError(
                "this method learns from images, and the batch has none",
                where="data.images",
                cure="Set data.images: true",
            )
        usable = batch.keyframe & (batch.cells.of_point >= 0)
        camera, point = (cameras.visible & usable).nonzero(as_tuple=True)
        scans = torch.arange(len(batch), device=point.device)
        scan = torch.repeat_interleave(scans, batch.point_offsets.diff(), output_size=len(usable))
        first = cameras.rows.index_select(0, scan.index_select(0, point)) * len(cameras.visible)
        height, width = cameras.images.shape[3:]
        place = (cameras.pixels[camera, point].float() + 1) / 2
        size = place.new_tensor([width - 1, height - 1])
        column, row = (place * size).round().long().unbind(1)
        return cls(point, first + camera, column, row)

    def __len__(self) -> int:
        return len(self.point)

    def take(self, chosen: Tensor) -> Pairs:
        """Some of the pairs, i64 rows or bool [M]."""
        return Pairs(self.point[chosen], self.image[chosen], self.column[chosen], self.row[chosen])


class ImageTeaching(Method):
    """A LiDAR network whose outputs are an embedding, next to frozen image features.

    The last weights are the ones that count; the loss on the val split is measured and chooses nothing.

    Args:
        config: see :class:`ImageTeaching.Config`. student: of :meth:`outputs` outputs.
        teacher: there is none but the images. criterion: not looked at, for there are no labels.
    """

    class Config(Method.Config):
        """``distill:`` section."""

        image: FeatureConfig = Field(FeatureConfig(), description="the image network, frozen")
        normalize_points: bool = Field(
            True,
            description="embeddings of cells have length 1; false where the network sees to it (voxelnet)",
        )

        @property
        def needs(self) -> Needs:
            """Images, and no labels."""
            return Needs(labels=False, images=True)

    score: ClassVar[Score] = LAST_LOSS
    frozen = ("image.encoder.",)

    def __init__(
        self,
        config: Config,
        student: nn.Module,
        teacher: nn.Module | None,
        criterion: CrossEntropyLovasz,
    ) -> None:
        super().__init__(config, student, teacher, criterion)
        self.config = config
        self.image = ImageFeatures(config.image, self.decoded_width(config))

    @classmethod
    def decoded_width(cls, config: Config) -> int | None:
        """Channels of the convolution over the image features; None = there is none."""
        return None

    def load_pretrained(self) -> None:
        """Read the image encoder's weights, where the YAML names them.

        Raises:
            UserError: the file is missing, damaged or of another network.
        """
        self.image.load_pretrained()

    def embeddings(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The student's embeddings f32 [R, C], and the row of each point's, i64 [SN] (-1 = none).

        Of cells, or of points where the network has outputs for them.
        """
        output: Output = self.student(batch)
        if output.point_logits is not None:
            feats = output.point_logits
            rows = torch.arange(len(feats), device=feats.device)
        else:
            feats = output.logits
            rows = batch.cells.of_point
        feats = feats.float()
        return (F.normalize(feats, dim=1) if self.config.normalize_points else feats), rows


class Embedding(ImageTeaching):
    """An :class:`ImageTeaching` whose image features pass a 1x1 convolution that learns, to embeddings of one width."""

    class Config(ImageTeaching.Config):
        """``distill:`` section."""

        width: int = Field(64, ge=1, le=4096, description="values of an embedding")
        temperature: float = Field(
            0.07, gt=0, description="similarities are divided by it before they compete"
        )

    @classmethod
    def outputs(cls, config: Method.Config, labels: LabelSpace) -> int:
        """Values of an embedding."""
        assert isinstance(config, Embedding.Config), "the section of this method"
        return config.width

    @classmethod
    def decoded_width(cls, config: ImageTeaching.Config) -> int | None:
        """Values of an embedding."""
        assert isinstance(config, Embedding.Config), "the section of this method"
        return config.width


def info_nce(anchors: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """One-way InfoNCE (van den Oord et al., 2018): each anchor picks its own candidate among all.

    Args:
        anchors, candidates: f32 [n, C], row i of one belongs to row i of the other.

    Returns:
        the mean of -log softmax(anchors candidates^T / temperature) at i, i; 0 without rows. ln n where all rows are
        equal.
    """
    if not len(anchors):
        return anchors.sum() + candidates.sum()
    with torch.autocast(anchors.device.type, enabled=False):
        similarity = anchors @ candidates.T / temperature
        own = torch.arange(len(anchors), device=anchors.device)
        return F.cross_entropy(similarity, own)


def looked_up(feats: Tensor, rows: Tensor) -> Tensor:
    """``feats[rows]``; its gradient is a sum in a fixed order."""
    return gather_sum(feats, GatherTable.lookup(rows, len(feats)))

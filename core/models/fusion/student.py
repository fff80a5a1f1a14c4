"""The LiDAR-camera student of U2MKD: a sparse U-Net and SwiftNet that exchange features after every encoder stage.

At each stage the points' features are drawn into the images (L2C), the fused image is read at the points, points that
no camera sees take features learned to look like an image's (learner), and a gate lets both into the voxels (C2L).
Without images, or with fewer cameras than in training, the same forward pass runs on imputed features.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from core.config import Section
from core.contracts import Batch, Output
from core.models.fusion.c2l import C2L, PixelHead
from core.models.fusion.l2c import L2C, draw_points
from core.models.fusion.learner import learner
from core.models.fusion.output import FusedOutput
from core.models.image.sampling import MapSize, Overlap, PixelLinks, map_size, sample_image
from core.models.image.swiftnet import ImageConfig, SwiftNet
from core.models.lidar.blocks import scaled_channels
from core.models.lidar.minkunet import MinkUNet
from core.models.lidar.sphereformer import SPVCNNSphereFormer
from core.models.lidar.spvcnn import SPVCNN
from core.sparse import SparseTensor, devoxelize, gather_sum, voxel_mean

__all__ = ["LidarCamera"]

BACKBONES = {"minkunet": MinkUNet, "spvcnn": SPVCNN, "spvcnn_spformer": SPVCNNSphereFormer}
BackboneConfig = Annotated[
    MinkUNet.Config | SPVCNN.Config | SPVCNNSphereFormer.Config,
    Field(discriminator="name"),
]
STAGES = 4


class LidarCamera(nn.Module):
    """Voxels and images -> logits per voxel.

    Args:
        config: see :class:`LidarCamera.Config`.
        num_classes: outputs including class 0 (ignore).
    """

    partitions: ClassVar[tuple[str, ...]] = ("voxels",)

    class Config(Section):
        """``model:`` section; each switch that is off gives an ablation of the method."""

        name: Literal["lidar_camera"] = Field(description="the network")
        lidar: BackboneConfig = Field(description="the LiDAR network, with all its options")
        image: ImageConfig = Field(ImageConfig(), description="the image network")
        l2c: bool = Field(True, description="draw LiDAR features into the images")
        c2l: bool = Field(
            True,
            description="let image features into the voxels; off, the image branch learns beside them",
        )
        learner: bool = Field(
            True,
            description="impute features where no camera looks (off: zeros); needs c2l, and is not built "
            "without it",
        )
        overlap: Overlap = Field(
            "last",
            description='what a point that several cameras see reads: the "last" one (U2MKD) or the "mean"',
        )
        eval_pixels: bool = Field(False, description="run the image decoder in evaluation too")

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.lidar = BACKBONES[config.lidar.name](config.lidar, num_classes)
        self.pix_branch = SwiftNet(config.image)
        point_channels = scaled_channels(config.lidar.cr)[1 : STAGES + 1]
        widths = list(zip(self.pix_branch.channels, point_channels))
        imputes = config.c2l and config.learner
        self.l2c_fusion_blocks = nn.ModuleList(L2C(ic, pc) for ic, pc in widths if config.l2c)
        self.c2l_fusion_blocks = nn.ModuleList(C2L(ic, pc) for ic, pc in widths if config.c2l)
        self.learner = nn.ModuleList(learner(pc, ic) for ic, pc in widths if imputes)
        self.classifier_pix = PixelHead(self.pix_branch.out_channels, num_classes)

    def load_pretrained(self) -> None:
        """Read the image encoder's weights; only training from scratch needs them.

        Raises:
            UserError: the file is missing, damaged or of another network.
        """
        self.pix_branch.load_pretrained()

    def forward(self, batch: Batch) -> FusedOutput:
        """Logits [SV, num_classes] in the batch's voxel order, the LiDAR network's stages, and what was exchanged.

        The image decoder runs in training; in evaluation only with ``eval_pixels``.
        """
        exchange = Exchange(self, batch)
        return exchange.output(self.lidar(batch, exchange))


class Exchange:
    """One forward pass between the two networks: called after each encoder stage.

    Args:
        model: the student.
        batch: with or without images.

    Attributes:
        uses_images: the batch has images, and something reads them; else there are neither ``links`` nor ``image``.
        links: points and pixels.
        image: [I * K, C, H, W], what the next image stage is fed.
        image_size: (rows, columns) of the batch's images.
        skips: [I * K, ic, H, W] of the image stages so far.
        points: see :class:`FusedOutput`, like the other attributes.
    """

    links: PixelLinks
    image: Tensor
    image_size: MapSize
    points: Tensor

    def __init__(self, model: LidarCamera, batch: Batch) -> None:
        self.model = model
        self.decodes = model.training or model.config.eval_pixels
        self.uses_images = False
        self.skips: list[Tensor] = []
        self.image_features: list[Tensor] = []
        self.learned_features: list[Tensor] = []
        if batch.images is None or batch.visible is None:
            self.in_view = torch.zeros_like(batch.coords[:, 0], dtype=torch.bool)
            return
        self.in_view = batch.visible.any(0)
        # In training no image is an image network's batch of none: all weights get a gradient, and processes that have
        # images exchange the same statistics with those that have not.
        self.uses_images = (self.decodes or model.config.c2l) and (
            model.training or len(batch.images) > 0
        )
        if self.uses_images:
            self.links = PixelLinks.of(batch, model.config.overlap)
            images = batch.images.flatten(0, 1)
            self.image_size = map_size(images)
            self.image = model.pix_branch.stem(images)

    def __call__(self, stage: int, x: SparseTensor, batch: Batch) -> tuple[SparseTensor, Tensor]:
        """Run one image stage and fuse both ways: (voxels, points [SV, C])."""
        points = devoxelize(x)
        if stage == STAGES - 1:
            self.points = points
        skip = self.image_stage(stage, points) if self.uses_images else None
        if not self.model.config.c2l:
            return x, points
        image = self._image_features(stage, points, skip)
        fused = self.model.c2l_fusion_blocks[stage](points, image)
        return voxel_mean(x, fused), fused

    def image_stage(self, stage: int, points: Tensor) -> Tensor:
        """Skip [I * K, ic, H, W] of the next image stage, fused with the points."""
        model = self.model
        self.image, skip = model.pix_branch.stage(stage, self.image)
        if model.config.l2c:
            scales = tuple(2**i for i in range(STAGES - stage))
            drawn = self.draw(points, map_size(skip), scales)
            self.image, skip = model.l2c_fusion_blocks[stage](skip, drawn)
        self.skips.append(skip)
        return skip

    def draw(self, points: Tensor, size: tuple[int, int], scales: tuple[int, ...]) -> Tensor:
        """Points [SV, C] in the images, [I * K, C, *size]."""
        return draw_points(points, self.links, size, scales)

    def read(self, features: Tensor) -> Tensor:
        """Images' features [I * K, C, H, W] at the points, [SV, C]."""
        return sample_image(features, self.links)

    def _image_features(self, stage: int, points: Tensor, skip: Tensor | None) -> Tensor:
        """[SV, ic]: the image's where a camera looks, the learner's (or 0) elsewhere."""
        model = self.model
        seen = None if skip is None else self.read(skip)
        if not model.learner:
            if seen is not None:
                return seen
            return points.new_zeros(len(points), model.pix_branch.channels[stage])
        learned = model.learner[stage](points)
        if seen is None:
            return learned
        self.learned_features.append(learned)
        self.image_features.append(seen)
        return torch.where(self.in_view[:, None], seen, learned)

    def pixel_logits(self) -> Tensor | None:
        """[SV, classes], 0 where no camera looks; None where the image decoder is not asked for."""
        if not (self.uses_images and self.decodes):
            return None
        if self.model.training:
            decoded = self.model.pix_branch.decode_at(self.skips, self.links)
            seen = self.model.classifier_pix(decoded)
        else:
            seen = self._pixel_logits_of_the_image()
        everywhere = seen.new_zeros(len(self.in_view), seen.shape[1])
        return everywhere.index_copy(0, self.links.rows, seen)

    def _pixel_logits_of_the_image(self) -> Tensor:
        """[R, classes] at the points in sight, read from the logits of the image's own pixels, as U2MKD defines them.

        Of an image's logits a point reads four pixels; no others are made.
        """
        decoded = self.model.pix_branch.decode(self.skips)
        around = self.links.around(self.image_size, map_size(decoded))
        pixels = decoded.permute(0, 2, 3, 1).reshape(-1, decoded.shape[1])
        logits = self.model.classifier_pix(gather_sum(pixels, around.pixels))
        return gather_sum(logits, around.points)

    def output(self, lidar: Output) -> FusedOutput:
        """What the LiDAR network returned, and what was exchanged on the way."""
        return FusedOutput(
            **vars(lidar),
            points=self.points,
            in_view=self.in_view,
            image_features=tuple(self.image_features),
            learned_features=tuple(self.learned_features),
            pixel_logits=self.pixel_logits(),
        )

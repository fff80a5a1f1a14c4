"""CENet (Cheng et al., ICME 2022): dense convolutions on the range image, all stages joined at full size.

The variant ``fid`` is FIDNet (Zhao et al., IROS 2021), whose stem and head look at one pixel at a time.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from core.config import Section
from core.contracts import Batch
from core.errors import UserError
from core.models.lidar.range_image import (
    ImageStage,
    NeighbourConfig,
    RangeOutput,
    at_cells,
    picture,
    point_ranges,
)

__all__ = ["CENet"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}
DEPTHS = (3, 4, 6, 3)  # residual blocks of the four stages
STRIDES = (1, 2, 2, 2)


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch normalisation, activation."""

    def __init__(self, cin: int, cout: int, kernel: int, activation: type[nn.Module]) -> None:
        super().__init__(
            nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(cout),
            activation(),
        )


class Residual(nn.Module):
    """``act(conv3-BN-act-conv3-BN (x) + shortcut(x))``; the shortcut is a 1x1 convolution where shapes differ."""

    def __init__(self, cin: int, cout: int, stride: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(cin, cout, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(cout),
            activation(),
            nn.Conv2d(cout, cout, 3, padding=1, bias=False),
            nn.BatchNorm2d(cout),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or cin != cout:
            self.shortcut = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """[B, cin, h, w] -> [B, cout, h / stride, w / stride], rounded up."""
        out: Tensor = self.activation(self.net(x) + self.shortcut(x))
        return out


class CENet(nn.Module):
    """Range image -> logits per pixel; in evaluation neighbouring pixels vote on each point's class.

    Channels are the range (m, of the view) and ``data.features``; empty pixels are 0 after normalisation.

    Args:
        config: see :class:`CENet.Config`.
        num_classes: outputs including class 0 (ignore).

    Raises:
        UserError: ``mean`` and ``std`` have not a number for each channel.
    """

    partitions: ClassVar[tuple[str, ...]] = ("range_image",)

    class Config(Section):
        """``model:`` section."""

        name: Literal["cenet"] = Field(description="the network")
        variant: Literal["res", "fid"] = Field(
            "res",
            description='"res" = CENet, 3x3 convolutions in stem and head; "fid" = FIDNet, 1x1 there',
        )
        activation: Literal["hardswish", "silu", "leaky_relu"] = Field(
            "hardswish", description="of every layer; FIDNet: leaky_relu"
        )
        width: int = Field(
            128,
            ge=2,
            le=4096,
            description="channels of the stages; stem and head follow (published: 128)",
        )
        in_channel: int = Field(
            4, ge=1, description="values per point; follows from data.features, so leave it out"
        )
        mean: tuple[float, ...] = Field(
            (11.71279, -0.1023471, 0.4952, -1.0545, 0.2877),
            description="mean of the range (m) and of each value of data.features; SemanticKITTI's",
        )
        std: tuple[float, ...] = Field(
            (10.24, 12.295865, 9.4287, 0.8643, 0.1450),
            description="their standard deviations; SemanticKITTI's",
        )
        knn: NeighbourConfig | None = Field(
            NeighbourConfig(),
            description="votes of neighbouring pixels on each point; null = a point has the class of its pixel",
        )

        @model_validator(mode="after")
        def _divisible(self) -> CENet.Config:
            if self.width % 2:
                raise ValueError("width is even: the stem begins with half of it")
            if min(self.std, default=1) <= 0:
                raise ValueError("the numbers of std are positive")
            return self

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.config = config
        channels = config.in_channel + 1
        _check_statistics(config, channels)
        self.register_buffer("mean", torch.tensor(config.mean), persistent=False)
        self.register_buffer("std", torch.tensor(config.std), persistent=False)
        act = ACTIVATIONS[config.activation]
        width = config.width
        stem = [channels, width // 2, width, width]
        head = [2 * width, width]
        kernel = 3
        if config.variant == "fid":
            stem = [channels, width // 2, width, 2 * width, 4 * width]
            head = [4 * width, width]
            kernel = 1
        self.stem = nn.Sequential(*(ConvNorm(a, b, kernel, act) for a, b in pairwise(stem)))
        self.stages = nn.ModuleList()
        for cin, depth, stride in zip((stem[-1], width, width, width), DEPTHS, STRIDES):
            blocks = [Residual(cin, width, stride, act)]
            blocks += [Residual(width, width, 1, act) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
        joined = [stem[-1] + 4 * width, *head]
        self.head = nn.Sequential(*(ConvNorm(a, b, kernel, act) for a, b in pairwise(joined)))
        self.classifier = nn.Conv2d(width, num_classes, 1)

    @property
    def scale_widths(self) -> tuple[int, ...]:
        """Channels of the scales of :class:`RangeOutput`."""
        return (self.config.width,) * 3

    def forward(self, batch: Batch) -> RangeOutput:
        """Logits [SV, num_classes] of the occupied pixels; stages = the four of the encoder, then the joined features.

        In evaluation neighbouring pixels decide for the points, where ``knn`` is set.
        """
        maps, full = self._maps(self._image(batch))
        stages, stride = [], 1
        for image, step in zip(maps, STRIDES):
            stride *= step
            stages.append(ImageStage(image, batch, stride))
        features = self.head(torch.cat(full, 1))
        scores = self.classifier(features)
        votes = decided = None
        if self.config.knn is not None and not self.training:
            votes = partial(self.config.knn.point_logits, batch, scores)
            decided = batch.cells.of_point >= 0
        return RangeOutput(
            logits=at_cells(scores, batch),
            stages=(*stages, ImageStage(features, batch, 1)),
            encoder=len(stages),
            decided=decided,
            scores=scores,
            scales=tuple(full[2:]),
            votes=votes,
        )

    def _maps(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features of the four stages; those of the stem and of the stages at full size."""
        x = self.stem(image)
        maps, full = [], [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
            full.append(_resized(x, image.shape[2:]))
        return maps, full

    def _image(self, batch: Batch) -> Tensor:
        """[B, channels, H, W], normalised; the scan's first point is as good as any other."""
        ranges = point_ranges(batch).index_select(0, batch.cells.point)
        feats = torch.cat([ranges[:, None].to(batch.feats.dtype), batch.feats], 1)
        image = picture(batch, (feats - self.mean) / self.std)
        image = image.permute(0, 3, 1, 2)
        if torch.is_autocast_enabled(image.device.type):
            return image  # channels last in memory: convolutions in bf16 take a third less time
        return image.contiguous()  # the backward passes in fp32 take less so


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def _check_statistics(config: CENet.Config, channels: int) -> None:
    for key in ("mean", "std"):
        found = len(getattr(config, key))
        if found != channels:
            raise UserError(
                f"key 'model.{key}' has {found} numbers for {channels} channels",
                where="model",
                cure="Give one for the range (m) and one for each value of data.features, in their order",
            )

"""The image network of 2DPASS (Yan et al., ECCV 2022): a ResNet and one small decoder for each of its four stages.

Every decoder ends in a nearest-neighbour enlargement to full resolution, of which a point reads a single pixel. That
pixel is a copy of one of the map before, so points read that map and the full-resolution maps are never made.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from core.config import Section
from core.models.image.resnet import ResNet
from core.models.image.swiftnet import IMAGENET
from core.sparse import gather_sum
from core.sparse.points import GatherTable

__all__ = ["FCNConfig", "PixelReader", "ResNetFCN"]

STRIDES = (2, 4, 8, 16)  # of the encoder's stages
MAP_STRIDES = (2, 4, 4, 4)  # of the decoded maps
NARROW = 64  # width of the coarse stages' decoders before their last layer


class FCNConfig(Section):
    """``distill.image:`` section."""

    encoder: Literal["resnet18", "resnet34", "resnet50"] = Field(
        "resnet34", description="the encoder; published: resnet34"
    )
    weights: Path | None = Field(
        None,
        description="file of the encoder's ImageNet weights (.pth or .safetensors); null = from scratch, "
        "as published",
    )


class ResNetFCN(nn.Module):
    """Images -> one map per stage of the encoder, ``width`` channels each.

    Images of any size will do; where a side is no multiple of 16 the coarse maps reach a little beyond it.

    Args:
        config: see :class:`FCNConfig`.
        width: channels of the maps.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: FCNConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = ResNet(config.encoder, stem_stride=1)
        self.decoders = nn.ModuleList(
            _decoder(cin, width, i) for i, cin in enumerate(self.encoder.channels)
        )
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def load_pretrained(self) -> None:
        """Read ``config.weights``, if it names a file, into the encoder.

        Raises:
            UserError: the file is missing, damaged or of another network.
        """
        if self.config.weights is not None:
            self.encoder.load_pretrained(self.config.weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """f32 [N, 3, H, W] in 0..1 -> four maps [N, width, H / s, W / s], s = 2, 4, 4, 4 (``MAP_STRIDES``)."""
        normal = (images - self.mean) / self.std
        x = self.encoder.stem(normal.contiguous(memory_format=torch.channels_last))
        maps = []
        for i, decoder in enumerate(self.decoders):
            x, _ = self.encoder.stage(i, x)
            maps.append(decoder(x))
        return maps


def _decoder(cin: int, width: int, stage: int) -> nn.Sequential:
    """7x7 convolution, then transposed convolutions until the map has stride 4 (stages 0 and 1: none)."""
    widths = [*[NARROW] * max(stage - 1, 0), width]
    layers = [nn.Conv2d(cin, widths[0], 7, padding=3, bias=False), nn.ReLU(inplace=True)]
    for a, b in pairwise(widths):
        layers += [
            nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class PixelReader:
    """Reads the maps at the pixel on whose area each point falls; one row per (point, camera), by point, then camera.

    Args:
        areas: i16 [K, SV, 2], see :class:`core.contracts.SampleCameras`.
        rows: i64 [SV], the row of images of each point's sample; -1 where it has none, and then no camera sees it.

    Attributes:
        point: i64 [P], of each row.
    """

    def __init__(self, areas: Tensor, rows: Tensor) -> None:
        cameras = len(areas)
        self.point, camera = (areas[..., 0] >= 0).T.nonzero(as_tuple=True)
        self.image = rows.index_select(0, self.point) * cameras + camera
        self.column, self.row = areas[camera, self.point].long().unbind(1)

    def __call__(self, features: Tensor, stage: int) -> Tensor:
        """Map ``stage`` [N, C, h, w] of images i * K + k (camera k of row i) -> [P, C]."""
        stride = MAP_STRIDES[stage]
        height, width = features.shape[2:]
        row, column = (
            torch.div(index, stride, rounding_mode="floor") for index in (self.row, self.column)
        )
        pixels = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
        rows = (self.image * height + row) * width + column
        return gather_sum(pixels, GatherTable.lookup(rows, len(pixels)))

"""Cylinder3D: asymmetric sparse convolutions on cylinders (Zhu et al., CVPR 2021), the network of PVKD."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from core.config import Section
from core.contracts import Batch, Output
from core.data.partitions.cylinder import Cylinder
from core.errors import UserError
from core.models.lidar.blocks import sparse_output
from core.models.lidar.cylinder_blocks import (
    CUBE,
    STEPS,
    AsymmetricBlock,
    AsymMode,
    ContextBlock,
    DownBlock,
    UpBlock,
    kernels_of,
)
from core.models.lidar.cylinder_points import PointHead, PointNetwork, cylinder_of
from core.sparse import Conv3d, SparseTensor, Window, WindowCache, cat

__all__ = ["Cylinder3D"]

_DOWN = (1, 2, 4, 8, 16)  # widths of stem and encoder, in units of ``width``
_UP = (16, 16, 8, 4, 2)  # of what enters the decoder and of its stages


class Cylinder3D(nn.Module):
    """Points -> cells of range, azimuth and height -> logits per cell, and per point where there is a head for them.

    Nothing is dense: losses see the occupied cells alone, which is what the published losses come to, since empty
    cells carry the ignored label there.

    Args:
        config: see :class:`Cylinder3D.Config`.
        num_classes: outputs including class 0 (ignore).
    """

    partitions: ClassVar[tuple[str, ...]] = ("cylinder",)

    class Config(Section):
        """``model:`` section."""

        name: Literal["cylinder3d"] = Field(description="the network")
        width: int = Field(
            32,
            ge=1,
            le=512,
            description="channels of the first block, of which all others are multiples; "
            "published: 16 (0.5x), 32 (1.0x), 48 (1.5x)",
        )
        voxel_features: int = Field(
            32,
            ge=1,
            le=512,
            description="channels in which a cell's points enter the sparse network; published: 16 (0.5x and the "
            "original Cylinder3D), 32",
        )
        point_features: int = Field(
            256,
            ge=1,
            le=4096,
            description="channels of a point before the maximum over its cell; published: 256, nuScenes 128",
        )
        asym_mode: AsymMode = Field(
            "paper",
            description="kernels as in the paper, or the ones that act in the released weights, where all convolutions "
            "of a block have the neighbours of its first",
        )
        point_head: Literal["none", "mlp"] = Field(
            "none", description="point refinement: a perceptron that decides for each point"
        )
        wrap: bool = Field(
            False,
            description="convolutions go on across the seam of azimuth at +-180 degrees (published: no)",
        )
        in_channel: int = Field(
            4, ge=3, description="values per point; follows from data.features, so leave it out"
        )

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        kernels = kernels_of(config.asym_mode)
        down = [config.width * factor for factor in _DOWN]
        up = [config.width * factor for factor in _UP]
        self.wrap = config.wrap
        self.point_network = PointNetwork(
            config.in_channel, config.point_features, config.voxel_features
        )
        self.stem = AsymmetricBlock(config.voxel_features, down[0], kernels.stem)
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        for i, step in enumerate(STEPS):
            self.downs.append(DownBlock(down[i], down[i + 1], kernels, step))
        for i, step in enumerate(reversed(STEPS)):
            self.ups.append(UpBlock(up[i], up[i + 1], kernels, step))
        self.context = ContextBlock(up[-1], kernels)
        self.head = Conv3d(2 * up[-1], num_classes, CUBE, bias=True)
        self.point_head: PointHead | None = None
        if config.point_head == "mlp":
            self.point_head = PointHead(2 * up[-1], config.point_features, num_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits [SV, num_classes] in the batch's order of cells.

        ``stages`` are the four of the encoder after their poolings, the four of the decoder, and the features from
        which the cells are classified.

        Raises:
            UserError: the partition is a grid without bounds, or does not close where ``wrap`` is on.
        """
        cache = WindowCache.of(batch.cells, _window(cylinder_of(batch), self.wrap))
        points, voxels = self.point_network(batch)
        x = self.stem(SparseTensor.from_batch(voxels, cache.coords, cache))
        skips, stages = [], []
        for down in self.downs:
            x, skip = down(x)
            skips.append(skip)
            stages.append(x)
        for up in self.ups:
            x = up(x, skips.pop())
            stages.append(x)
        x = cat([self.context(x), x])
        stages.append(x)
        output = sparse_output(self.head(x).feats, stages, encoder=len(self.downs))
        if self.point_head is None:
            return replace(output, point_features=points)
        logits, feats = self.point_head(x.feats, points, batch.cells.of_point)
        return replace(output, point_logits=logits, point_features=feats)


def _window(grid: Cylinder, wrap: bool) -> Window:
    """The pyramid of a grid's cells.

    Raises:
        UserError: azimuth shall close on itself, but its cells do not.
    """
    if wrap and not grid.closes:
        raise UserError(
            "azimuth does not close on itself in this grid: its cells are not a full circle",
            where="data.partition, because of model.wrap",
            cure="Set interval: bins, low and high 360 degrees apart; or model.wrap: false",
        )
    return Window(grid.bins, STEPS, wrap)

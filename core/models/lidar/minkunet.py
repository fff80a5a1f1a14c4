"""MinkUNet: sparse residual U-Net (Choy et al., CVPR 2019, in the 18-layer form of SPVNAS, Tang et al., ECCV 2020)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from core.config import Section
from core.contracts import Batch, Output
from core.models.lidar.blocks import (
    Factor,
    Fusion,
    UpBlock,
    down_stage,
    scaled_channels,
    sparse_output,
    stem,
)
from core.sparse import SparseTensor

__all__ = ["MinkUNet"]


class MinkUNet(nn.Module):
    """Voxels -> logits per voxel. Strides 1, 2, 4, 8, 16 and back.

    Args:
        config: see :class:`MinkUNet.Config`.
        num_classes: outputs including class 0 (ignore).
    """

    partitions: ClassVar[tuple[str, ...]] = ("voxels", "cylinder")

    class Config(Section):
        """``model:`` section."""

        name: Literal["minkunet"] = Field(description="the network")
        cr: Factor = Field(1.0, description="factor on every channel count")
        in_channel: int = Field(
            4, ge=1, description="values per point; follows from data.features, so leave it out"
        )

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        cs = scaled_channels(config.cr)
        self.stem = stem(config.in_channel, cs[0])
        self.vox_downs = nn.ModuleList(down_stage(cs[i], cs[i + 1]) for i in range(4))
        self.vox_ups = nn.ModuleList(UpBlock(cs[i], cs[i + 1], cs[7 - i]) for i in range(4, 8))
        self.classifier_vox = nn.Sequential(nn.Linear(cs[8], num_classes))

    def forward(self, batch: Batch, fusion: Fusion | None = None) -> Output:
        """Logits [SV, num_classes] in the batch's voxel order; stages = encoder, then decoder outputs."""
        x = self.stem(SparseTensor.of(batch.cells, batch.feats))
        skips, stages = [x], []
        for stage, down in enumerate(self.vox_downs):
            x = down(x)
            if fusion is not None:
                x, _ = fusion(stage, x, batch)
            skips.append(x)
            stages.append(x)
        skips.pop()
        for up in self.vox_ups:
            x = up(x, skips.pop())
            stages.append(x)
        return sparse_output(self.classifier_vox(x.feats), stages, encoder=len(self.vox_downs))

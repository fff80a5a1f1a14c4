"""SPVCNN: MinkUNet's voxels with a high-resolution point branch (Tang et al., ECCV 2020)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from core.config import Section
from core.contracts import Batch, Output
from core.models.layers import PointBatchNorm
from core.models.lidar.blocks import (
    Factor,
    Fusion,
    UpBlock,
    down_stage,
    scaled_channels,
    sparse_output,
    stem,
)
from core.sparse import SparseTensor, devoxelize, voxel_mean

__all__ = ["SPVCNN", "SPVCNNConfig"]


def _point_mlp(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(cin, cout), PointBatchNorm(cout), nn.ReLU())


class SPVCNNConfig(Section):
    """``model:`` section of SPVCNN and of what builds on it."""

    name: str = Field(description="the network")
    cr: Factor = Field(1.0, description="factor on every channel count")
    in_channel: int = Field(
        4, ge=1, description="values per point; follows from data.features, so leave it out"
    )
    dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="chance, on the voxel features after each point-to-voxel step of the decoder",
    )


class SPVCNN(nn.Module):
    """Voxels -> logits per voxel, through voxel and point features fused at strides 1, 16, 4 and 1.

    "Points" are the unique fine voxels of the sample, not raw returns.

    Args:
        config: see :class:`SPVCNN.Config`.
        num_classes: outputs including class 0 (ignore).
    """

    partitions: ClassVar[tuple[str, ...]] = ("voxels", "cylinder")

    class Config(SPVCNNConfig):
        """``model:`` section."""

        name: Literal["spvcnn"] = Field(description="the network")

    def __init__(self, config: SPVCNNConfig, num_classes: int) -> None:
        super().__init__()
        cs = scaled_channels(config.cr)
        self.stem = stem(config.in_channel, cs[0])
        self.vox_downs = nn.ModuleList(down_stage(cs[i], cs[i + 1]) for i in range(4))
        self.vox_ups = nn.ModuleList(UpBlock(cs[i], cs[i + 1], cs[7 - i]) for i in range(4, 8))
        self.point_transforms = nn.ModuleList(
            [_point_mlp(cs[0], cs[4]), _point_mlp(cs[4], cs[6]), _point_mlp(cs[6], cs[8])]
        )
        self.dropout = nn.Dropout(config.dropout)
        self.classifier_vox = nn.Sequential(nn.Linear(cs[8], num_classes))

    def forward(self, batch: Batch, fusion: Fusion | None = None) -> Output:
        """Logits [SV, num_classes] in the batch's voxel order; stages = encoder outputs, decoder outputs."""
        x0 = self.stem(SparseTensor.of(batch.cells, batch.feats))
        z0 = devoxelize(x0)
        skips = [x0]
        stages: list[SparseTensor] = []
        x = voxel_mean(x0, z0)
        for stage in range(len(self.vox_downs)):
            x = self.encode(stage, x, batch)
            if fusion is not None:
                x, fused = fusion(stage, x, batch)
            skips.append(x)
            stages.append(x)
        skips.pop()
        deepest = devoxelize(x) if fusion is None else fused
        z1 = deepest + self.point_transforms[0](z0)
        y = self._up(self._to_voxels(x, z1), (0, 1), skips, stages)
        z2 = devoxelize(y) + self.point_transforms[1](z1)
        y = self._up(self._to_voxels(y, z2), (2, 3), skips, stages)
        z3 = devoxelize(y) + self.point_transforms[2](z2)
        return sparse_output(self.classifier_vox(z3), stages, encoder=len(self.vox_downs))

    def encode(self, stage: int, x: SparseTensor, batch: Batch) -> SparseTensor:
        """One encoder stage; what builds on SPVCNN adds to it here."""
        return self.vox_downs[stage](x)

    def _to_voxels(self, x: SparseTensor, z: Tensor) -> SparseTensor:
        voxels = voxel_mean(x, z)
        return voxels.replace(self.dropout(voxels.feats))

    def _up(
        self,
        y: SparseTensor,
        indices: tuple[int, ...],
        skips: list[SparseTensor],
        stages: list[SparseTensor],
    ) -> SparseTensor:
        """Some of the decoder's stages; each takes the last of ``skips`` and is added to ``stages``."""
        for i in indices:
            y = self.vox_ups[i](y, skips.pop())
            stages.append(y)
        return y

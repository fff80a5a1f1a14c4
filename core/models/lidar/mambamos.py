"""MambaMOS: what moves, from several merged scans along space-filling curves (Zeng et al., ACM MM 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from core.config import Section
from core.contracts import Batch, Output
from core.models.layers import PointBatchNorm
from core.models.lidar.blocks import sparse_output
from core.models.lidar.curves import CURVES, curve_codes
from core.models.lidar.mamba_blocks import Curve, Embedding, MambaBlock
from core.sparse import SparseTensor, gather_sum, local_pool
from core.sparse.points import GatherTable, parents

__all__ = ["MambaMOS"]

Depth = Annotated[int, Field(ge=1, le=64)]
Width = Annotated[int, Field(ge=1, le=4096)]


class MambaMOS(nn.Module):
    """Voxels of merged scans -> logits per voxel; the number of a voxel's scan (column ``sweep``) is an input.

    A U-Net whose blocks walk along four curves in turn. In training they change places on every level; in evaluation
    they do not, so that an answer can be had again.

    Args:
        config: see :class:`MambaMOS.Config`.
        num_classes: outputs including class 0 (ignore).
    """

    partitions: ClassVar[tuple[str, ...]] = ("voxels",)

    class Config(Section):
        """``model:`` section; the defaults are those of the published network."""

        name: Literal["mambamos"] = Field(description="the network")
        encoder_depths: tuple[Depth, ...] = Field(
            (2, 2, 2, 6, 2), min_length=2, description="blocks of each level, fine to coarse"
        )
        encoder_channels: tuple[Width, ...] = Field(
            (32, 64, 128, 256, 512), description="widths of the levels"
        )
        decoder_depths: tuple[Depth, ...] = Field(
            (2, 2, 2, 2), description="blocks of each level but the coarsest, fine to coarse"
        )
        decoder_channels: tuple[Width, ...] = Field(
            (64, 64, 128, 256), description="widths of these levels"
        )
        drop_path_rate: float = Field(
            0.3, ge=0, lt=1, description="chance of the deepest block's branches to be dropped"
        )
        dropout: float = Field(0.3, ge=0, lt=1, description="behind the embedding")
        in_channel: int = Field(
            4, ge=1, description="values per point; follows from data.features, so leave it out"
        )

        @model_validator(mode="after")
        def _as_many(self) -> MambaMOS.Config:
            levels = len(self.encoder_depths)
            if len(self.encoder_channels) != levels:
                raise ValueError("encoder_channels has a width for each of encoder_depths")
            if len(self.decoder_depths) != levels - 1 or len(self.decoder_channels) != levels - 1:
                raise ValueError(f"decoder_depths and decoder_channels have {levels - 1} values")
            return self

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        widths = config.encoder_channels
        embedded = PointBatchNorm(widths[0])
        self.embedding = Embedding(config.in_channel, widths[0], embedded, config.dropout)
        self.blocks = _stages(config.encoder_depths, widths, config.drop_path_rate)
        self.pools = nn.ModuleList(_Pool(cin, cout) for cin, cout in pairwise(widths))
        up_widths = (*config.decoder_channels, widths[-1])
        self.ups = nn.ModuleList()
        for cout, deep, skip in zip(up_widths, up_widths[1:], widths):
            self.ups.append(_Up(deep, skip, cout))
        self.up_blocks = _stages(
            config.decoder_depths, config.decoder_channels, config.drop_path_rate
        )
        self.classifier = nn.Linear(up_widths[0], num_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits [SV, num_classes] in the batch's voxel order; stages are the encoder's below the first, the decoder's.

        Raises:
            UserError: the voxels span too many cells to be put in order.
        """
        x = SparseTensor.of(batch.cells, batch.feats)
        sweep = batch.at_cells("sweep").long()
        level = _Level(curve_codes(x.coords), x.coords, sweep, self.training)
        x = x.replace(self.embedding(x.feats, sweep, level.curve(0)))
        x = _walk(self.blocks[0], x, level)
        finer, stages = [], []
        for pool, blocks in zip(self.pools, list(self.blocks)[1:]):
            finer.append((x, level))
            x = pool(x)
            level = level.pooled(x)
            x = _walk(blocks, x, level)
            stages.append(x)
        encoder = len(stages)
        for up, blocks in zip(reversed(self.ups), reversed(self.up_blocks)):
            parent = level.parent
            assert parent is not None, "a coarser level has one"
            skip, level = finer.pop()
            x = _walk(blocks, up(x, skip, parent), level)
            stages.append(x)
        return sparse_output(self.classifier(x.feats), stages, encoder)


class _Level:
    """The voxels of one stride along the curves.

    Args:
        codes: i64 [4, V]. coords: integer [V, 4]. sweep: i64 [V]. shuffled: draw which curve comes first.
        parent: i64, row here of each voxel of the finer level.
    """

    def __init__(
        self,
        codes: Tensor,
        coords: Tensor,
        sweep: Tensor,
        shuffled: bool,
        parent: Tensor | None = None,
    ) -> None:
        self.codes, self.coords, self.sweep = codes, coords, sweep
        self.shuffled, self.parent = shuffled, parent
        turn = torch.arange(len(CURVES))
        if shuffled:
            turn = torch.randperm(len(CURVES))
        self._turn: list[int] = turn.tolist()
        self._curves: dict[int, Curve] = {}

    def curve(self, number: int) -> Curve:
        """The one of a block, which take turns."""
        name = self._turn[number % len(CURVES)]
        if name not in self._curves:
            self._curves[name] = Curve(self.codes[name], self.coords[:, 0].long(), self.sweep)
        return self._curves[name]

    def pooled(self, x: SparseTensor) -> _Level:
        """The level of twice the edge, whose features are ``x``; a cell has the scan of its first voxel on a curve."""
        parent = parents(x, self.coords)
        codes = self.codes.new_zeros(len(CURVES), x.num_voxels)
        codes[:, parent] = self.codes >> 3
        curve = self.curve(0)
        rank = curve.rank.new_full((x.num_voxels,), len(parent))
        rank = rank.scatter_reduce(0, parent, curve.rank, "amin")
        head = curve.whole.order.index_select(0, rank)
        sweep = self.sweep.index_select(0, head)
        return _Level(codes, x.coords, sweep, self.shuffled, parent)


class _Pool(nn.Module):
    """Cells of twice the edge: a linear layer, the largest of each cell's voxels, BN, GELU."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.linear = nn.Linear(cin, cout)
        self.norm = PointBatchNorm(cout)
        self.act = nn.GELU()

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[V, cin] -> [V', cout]."""
        pooled = local_pool(x.replace(self.linear(x.feats)), 2, 2, "max")
        return pooled.replace(self.act(self.norm(pooled.feats)))


class _Up(nn.Module):
    """Back to the finer voxels: both sides through a linear layer, BN and GELU, and added."""

    def __init__(self, deep: int, skip: int, cout: int) -> None:
        super().__init__()
        self.deep = nn.Sequential(nn.Linear(deep, cout), PointBatchNorm(cout), nn.GELU())
        self.skip = nn.Sequential(nn.Linear(skip, cout), PointBatchNorm(cout), nn.GELU())

    def forward(self, x: SparseTensor, skip: SparseTensor, parent: Tensor) -> SparseTensor:
        """[V', deep] and [V, skip] -> [V, cout]; parent: i64 [V], the row of ``x`` of each voxel."""
        table = GatherTable.lookup(parent, x.num_voxels)
        return skip.replace(self.skip(skip.feats) + gather_sum(self.deep(x.feats), table))


def _walk(blocks: nn.Module, x: SparseTensor, level: _Level) -> SparseTensor:
    """Through the blocks of a level, each along the next curve."""
    assert isinstance(blocks, nn.ModuleList), "as built"
    for number, block in enumerate(blocks):
        x = block(x, level.curve(number))
    return x


def _stages(depths: Sequence[int], widths: Sequence[int], rate: float) -> nn.ModuleList:
    """Blocks of each level; the chance to drop a branch grows evenly from 0 at the finest level's first block."""
    last = max(sum(depths) - 1, 1)
    stages = nn.ModuleList()
    number = 0
    for depth, width in zip(depths, widths):
        blocks = nn.ModuleList()
        for _ in range(depth):
            blocks.append(MambaBlock(width, rate * number / last))
            number += 1
        stages.append(blocks)
    return stages

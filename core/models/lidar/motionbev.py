"""MotionBEV: what moves, from one scan and its motion features, on a polar image (Zhou et al., RA-L 2023).

With the upsampling of KDMOS (Cao et al., IROS 2025), whose student it is.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from core.config import Section
from core.contracts import Batch, Output
from core.data.partitions.cylinder import Cylinder
from core.errors import UserError
from core.models.lidar.cylinder_points import GEOMETRY, cylinder_of, perceptron, point_inputs
from core.models.lidar.polar_blocks import (
    CoAttention,
    ImageNorm,
    PolarBlock,
    Seam,
    UpBlock,
    Upsampling,
)
from core.models.lidar.polar_columns import PolarColumns
from core.models.lidar.polar_inference import FoldedPerceptron, Shifted, number_type
from core.models.lidar.range_image import ImageStage

__all__ = ["MotionBEV"]

_POSITION = 3  # of data.features, its first
_HIDDEN = (32, 64, 128)  # of the perceptron at the points
_APPEARANCE = (1, 2, 4, 8, 8)  # widths of the levels, in units of ``width``
_MOTION = (1, 2, 4, 8)  # in units of half of it
_UP = (4, 2, 1, 1)
_LEAST = 16  # cells along range and azimuth: four poolings


class MotionBEV(nn.Module):
    """Points -> columns of range and azimuth -> two encoders and a decoder -> logits of the cells of each column.

    Losses see the occupied cells alone, which is what the published ones come to: empty cells carry the ignored label.

    Args:
        config: see :class:`MotionBEV.Config`.
        num_classes: outputs including class 0 (ignore).
    """

    partitions: ClassVar[tuple[str, ...]] = ("cylinder",)

    class Config(Section):
        """``model:`` section."""

        name: Literal["motionbev"] = Field(description="the network")
        motion_channels: int = Field(
            8, ge=1, description="values at the end of data.features that are motion features"
        )
        width: int = Field(
            32,
            ge=8,
            le=512,
            description="channels of the first level, of which all others are multiples (published: 32)",
        )
        point_features: int = Field(
            256, ge=1, le=4096, description="channels of a point before the maximum over its column"
        )
        heights: int = Field(
            32,
            ge=1,
            le=512,
            description="cells of a column, as data.partition.bins has them along height",
        )
        seam: Seam = Field(
            "closed",
            description='"closed" = the azimuth closes on itself: its cells are a full circle, and upsampling goes on '
            'across the seam; "published" = any grid, upsampling stops at its ends',
        )
        upsampling: Upsampling = Field(
            "dysample",
            description='of the decoder: "dysample" as in KDMOS, "transposed" = 2x2 convolutions as in MotionBEV',
        )
        dropblock: float = Field(
            0.5, ge=0, lt=1, description="chance of a pixel to be dropped in squares of 7 px"
        )
        dropout: float = Field(0.5, ge=0, lt=1, description="before the last layer")
        unused_attention: bool = Field(
            False,
            description="hold the parameters that the published network owns and never uses (5,512 of 4,031,366)",
        )
        in_channel: int = Field(
            12, ge=4, description="values per point; follows from data.features, so leave it out"
        )

        @model_validator(mode="after")
        def _divisible(self) -> MotionBEV.Config:
            if self.width % 8:
                raise ValueError("width is a multiple of 8")
            return self

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        plain = config.in_channel - config.motion_channels
        if plain < _POSITION:
            raise UserError(
                f"data.features have {config.in_channel} values per point, of which the last {config.motion_channels} "
                "are motion; motionbev needs x, y, z before them",
                where="data.features",
                cure="Write features: [xyz, intensity, motion], and the column in dataset.columns",
            )
        self.config, self.num_classes = config, num_classes
        width = config.width
        self.points = perceptron([GEOMETRY + plain - _POSITION, *_HIDDEN, config.point_features])
        self.compression = nn.Sequential(nn.Linear(config.point_features, width), nn.ReLU())
        appearance = [width, *(width * factor for factor in _APPEARANCE)]
        motion = [config.motion_channels, *(width // 2 * factor for factor in _MOTION)]
        self.appearance = _levels(appearance)
        self.motion = _levels(motion)
        self.gates = nn.ModuleList()
        for a, m in zip(appearance[1:], motion[1:]):
            self.gates.append(CoAttention(a, m, unused=config.unused_attention))
        self.ups = nn.ModuleList()
        deep = appearance[-1]
        for skip, factor in zip(reversed(appearance[1:-1]), _UP):
            cout = width * factor
            up = UpBlock(deep, skip, cout, config.seam, config.dropblock, config.upsampling)
            self.ups.append(up)
            deep = cout
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(deep, num_classes * config.heights)  # a 1x1 convolution

    def forward(self, batch: Batch) -> Output:
        """Logits [SV, num_classes] in the batch's order of cells.

        ``stages`` are the five levels of the encoder, behind their gates, and the four of the decoder.

        Raises:
            UserError: the grid has other heights than the network, too few cells, or does not close where it should.
        """
        columns = self.grid(batch)
        rows, of_column = columns.points(batch)
        plain, motion = self.inputs(batch, rows)
        points = self.points(plain)
        appearance = self.compression(columns.largest(points, of_column))
        image = columns.image(appearance)
        output = self.output(
            batch, columns, image, columns.image(columns.largest(motion, of_column))
        )
        count = len(batch.cells.of_point)
        if len(rows) < count:  # points without a cell have zeros
            points = points.new_zeros(count, points.shape[1]).index_copy(0, rows, points)
        return replace(output, point_features=points)

    def folded(self) -> nn.Module:
        """For :func:`core.sparse.fold_batch_norm`, once the batch normalisations below are gone."""
        return _FoldedMotionBEV(self)

    def grid(self, batch: Batch) -> PolarColumns:
        """The columns of a batch.

        Raises:
            UserError: see :meth:`forward`.
        """
        grid = cylinder_of(batch)
        _check(grid, self.config)
        return PolarColumns(batch, grid.bins)

    def inputs(self, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
        """F32 [R, .] and [R, motion_channels] of points, by their rows i64 [R]: place and such, and motion."""
        inputs = point_inputs(batch, rows)
        edge = inputs.shape[1] - self.config.motion_channels
        return inputs[:, :edge], inputs[:, edge:]

    def output(
        self, batch: Batch, columns: PolarColumns, appearance: Tensor, motion: Tensor
    ) -> Output:
        """Logits and stages of two images, see :meth:`stages`."""
        stages = self.stages(appearance, motion)
        feats = self.dropout(columns.of_image(stages[-1]))
        scores = self.head(feats).view(len(feats), self.config.heights, self.num_classes)
        edges = [1, 2, 4, 8, 16, 8, 4, 2, 1]
        whole = (self.config.heights,)
        return Output(
            logits=scores[columns.of_cell, batch.coords[:, 3].long()],
            stages=[ImageStage(x, batch, edge, whole) for x, edge in zip(stages, edges)],
            encoder=len(self.appearance),
        )

    def stages(self, appearance: Tensor, motion: Tensor) -> list[Tensor]:
        """The levels of the encoder and of the decoder.

        Args:
            appearance: [B, width, range, azimuth]. motion: [B, motion_channels, range, azimuth].

        Returns:
            [B, C, h, w] of five levels, fine to coarse, those but the last seen through the motion branch, and of four.
        """
        maps, motions = [], []
        for level in self.motion:
            motion = level(motion)
            motions.append(motion)
        for number, level in enumerate(self.appearance):
            appearance = level(appearance)
            if number < len(self.gates):
                appearance = self.gates[number](appearance, motions[number])
            maps.append(appearance)
        skips = maps[:-1]
        for up in self.ups:
            maps.append(up(maps[-1], skips.pop()))
        return maps


class _FoldedMotionBEV(nn.Module):
    """The network for inference, without the features of points.

    Args:
        network: whose batch normalisations are gone.
    """

    def __init__(self, network: MotionBEV) -> None:
        super().__init__()
        self.network = network
        linear = (layer for layer in network.points if isinstance(layer, nn.Linear))
        self.points = FoldedPerceptron(linear)
        self.norms = nn.ModuleList()
        for branch in (network.appearance, network.motion):
            first = branch[0]
            assert isinstance(first, nn.Sequential), "as built"
            self.norms.append(first[0])
            first[0] = nn.Identity()

    def forward(self, batch: Batch) -> Output:
        """See :meth:`MotionBEV.forward`."""
        network = self.network
        columns = network.grid(batch)
        rows, of_column = columns.points(batch)
        plain, motion = network.inputs(batch, rows)
        images = []
        most = columns.largest_of(self.points, plain, of_column)
        for norm, values in zip(
            self.norms, (network.compression(most), columns.largest(motion, of_column))
        ):
            assert isinstance(norm, Shifted), "as folded"
            values = norm.of_rows(values)
            images.append(columns.image(values.to(number_type(values)), norm.shift))
        return network.output(batch, columns, *images)


def _levels(widths: list[int]) -> nn.ModuleList:
    """The levels of a branch; the first one normalises the image, the others halve its size."""
    levels = nn.ModuleList([nn.Sequential(ImageNorm(widths[0]), PolarBlock(*widths[:2]))])
    for cin, cout in pairwise(widths[1:]):
        levels.append(nn.Sequential(nn.MaxPool2d(2), PolarBlock(cin, cout)))
    return levels


def _check(grid: Cylinder, config: MotionBEV.Config) -> None:
    """Compare the grid with what the network was built for."""
    if grid.bins[2] != config.heights:
        raise UserError(
            f"the grid has {grid.bins[2]} cells along height, and the network was built for {config.heights}",
            where="data.partition.bins and model.heights",
            cure="Give both the same number",
        )
    if min(grid.bins[:2]) < _LEAST:
        raise UserError(
            f"the grid has {grid.bins[0]} x {grid.bins[1]} cells along range and azimuth; four poolings need "
            f"{_LEAST} each",
            where="data.partition.bins",
        )
    if config.seam == "closed" and not grid.closes:
        raise UserError(
            "azimuth does not close on itself in this grid: its cells are not a full circle",
            where="data.partition, because of model.seam",
            cure="Set interval: bins, low and high 360 degrees apart; or model.seam: published",
        )

"""What networks of range images share: pictures made of a batch's cells, and the votes that decide for points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import Field, field_validator
from torch import Tensor

from core.config import Section
from core.contracts import Batch, Output, Stage
from core.data.partitions.range_image import RangeImage
from core.errors import UserError
from core.fast.range_votes import neighbour_votes

__all__ = ["ImageStage", "NeighbourConfig", "RangeOutput", "at_cells", "picture", "point_ranges"]

_SHARE = 1e-3  # of a vote, for classes that have none, so that logits are finite


@dataclass(frozen=True, kw_only=True)
class RangeOutput(Output):
    """The output of a network of range images, empty pixels included, for what looks at neighbouring pixels.

    Attributes:
        scores: [B, outputs, H, W] logits of every pixel.
        scales: [B, C, H, W] features of the coarser stages, brought to full size.
        votes: makes :attr:`point_decisions`; None = pixels decide.
    """

    scores: Tensor
    scales: tuple[Tensor, ...]
    votes: Callable[[], Tensor] | None = None

    @cached_property
    def point_decisions(self) -> Tensor | None:
        """[SN, outputs], the votes; a teacher is asked for its pixels' logits and takes none."""
        if self.votes is None:
            return None
        return self.votes()


class ImageStage(Stage):
    """Features of one stage in pictures; rows are made on demand.

    Args:
        stride: pixels of the full size along a pixel of the stage. others: cells of the batch along further axes, which
            a pixel holds all.

    Attributes:
        image: [B, C, h, w].
    """

    def __init__(
        self, image: Tensor, batch: Batch, stride: int, others: tuple[int, ...] = ()
    ) -> None:
        self.image, self.edge = image, (stride, stride, *others)
        self.batch = batch

    @property
    def feats(self) -> Tensor:  # type: ignore[override]
        """[B h w, C], a row per pixel."""
        return self.image.permute(0, 2, 3, 1).flatten(0, 2)

    @property
    def rows(self) -> Tensor:
        """I64 [SV], the pixel of the stage that each of the batch's cells falls into."""
        b, row, column = self._places()
        height, width = self.image.shape[2:]
        return (b * height + row) * width + column

    def _places(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scan, row and column of each cell; what a pooling has left over at an end belongs to the last."""
        b, row, column = self.batch.coords.long()[:, :3].unbind(1)
        height, width = self.image.shape[2:]
        stride = self.edge[0]
        return b, (row // stride).clamp_max(height - 1), (column // stride).clamp_max(width - 1)

    @property
    def channels(self) -> int:
        """Columns of the features."""
        return self.image.shape[1]

    def at_cells(self) -> Tensor:
        """The features of those pixels, [SV, C]."""
        b, row, column = self._places()
        return self.image[b, :, row, column]


class NeighbourConfig(Section):
    """``model.knn:``, how the pixels about a point decide on its class (RangeNet++); CENet's values."""

    search: int = Field(
        7, ge=1, le=99, description="px, odd, edge of the window about a point's pixel"
    )
    neighbours: int = Field(7, ge=1, description="pixels that vote, the nearest in range")
    sigma: float = Field(1.0, gt=0, description="px, of the Gaussian that favours the middle")
    cutoff: float = Field(2.0, gt=0, description="m, pixels further away have no vote")

    @field_validator("search")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("a window has a middle: search is odd")
        return value

    @torch.no_grad()
    def point_logits(self, batch: Batch, scores: Tensor) -> Tensor:
        """F32 [SN, outputs]: logarithms of the votes, whose softmax is each class's share of them; 0 without a cell.

        A point has one vote at least, that of its pixel.

        Args:
            scores: [B, outputs, H, W] logits; column 0 is never predicted.
        """
        outputs = scores.shape[1]
        ranges = point_ranges(batch)
        b, row, column = batch.coords.long().unbind(1)
        image = ranges.new_full((len(scores), *scores.shape[2:]), torch.inf)
        image[b, row, column] = ranges.index_select(0, batch.cells.point)
        inside = (batch.cells.of_point >= 0).nonzero().flatten()
        pixels = batch.coords.long().index_select(0, batch.cells.of_point[inside])
        votes = neighbour_votes(
            image,
            scores[:, 1:].argmax(1) + 1,
            pixels,
            ranges[inside],
            num_classes=outputs,
            search=self.search,
            neighbours=self.neighbours,
            sigma=self.sigma,
            cutoff=self.cutoff,
        )
        logits = ranges.new_zeros(len(ranges), outputs)
        return logits.index_copy(0, inside, (votes + _SHARE).log())


def point_ranges(batch: Batch) -> Tensor:
    """F32 [SN] m, from the scanner to each point as the view has it (augmented)."""
    sizes = batch.point_offsets.diff()
    origins = batch.origins.repeat_interleave(sizes, 0)
    return (batch.points["xyz"] - origins).norm(dim=1).float()


def picture(batch: Batch, values: Tensor) -> Tensor:
    """Values of the cells in pictures, 0 where a pixel is empty: [SV, ...] -> [B, H, W, ...].

    Raises:
        UserError: the cells are no pixels.
    """
    image = batch.cells.partition
    if not isinstance(image, RangeImage):
        raise UserError(
            f"cells of the partition '{image.name}' are no pixels",
            where="data.partition",
            cure="Set data.partition: {name: range_image}",
        )
    empty = values.new_zeros(len(batch), image.height, image.width, *values.shape[1:])
    return empty.index_put(tuple(batch.coords.long().unbind(1)), values)


def at_cells(maps: Tensor, batch: Batch) -> Tensor:
    """Read pictures at the batch's cells: [B, C, H, W] -> [SV, C]."""
    b, row, column = batch.coords.long().unbind(1)
    return maps[b, :, row, column]

"""PPKT (Liu et al., 2021, as SLidR compares with it): pixels teach the points that fall on them, without labels."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from core.contracts import Batch
from core.distill.base import TeacherOutput
from core.distill.images import Embedding, Pairs, info_nce, looked_up

__all__ = ["PPKT"]


class PPKT(Embedding):
    """Points contrasted with pixels; see :class:`core.distill.images.ImageTeaching`."""

    class Config(Embedding.Config):
        """``distill:`` section; defaults are those of SLidR's comparison."""

        name: Literal["ppkt"] = Field(description="the method")
        pairs: int = Field(
            4096, ge=2, description="pairs drawn from a batch, without repetition; all if fewer"
        )

    def forward(self, batch: Batch, teacher: TeacherOutput | None = None) -> dict[str, Tensor]:
        """``contrast``: InfoNCE over pairs drawn at random; in evaluation over the same ones each time."""
        config = self.config
        assert isinstance(config, PPKT.Config), "the section of this method"
        pairs = Pairs.of(batch)
        assert batch.cameras is not None, "there are pairs"
        pairs = pairs.take(self._drawn(len(pairs), config.pairs, pairs.point.device))
        feats, rows = self.embeddings(batch)
        points = looked_up(feats, rows.index_select(0, pairs.point))
        images = batch.cameras.images.flatten(0, 1)
        pixels = self.image.at(images, pairs.image, pairs.column, pairs.row)
        return {"contrast": info_nce(points, pixels, config.temperature)}

    def _drawn(self, count: int, wanted: int, device: torch.device) -> Tensor:
        """I64 rows of the pairs that compete; from the run's generator, whose state checkpoints keep."""
        generator = None if self.training else torch.Generator().manual_seed(0)
        return torch.randperm(count, generator=generator)[:wanted].to(device)

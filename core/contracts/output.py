"""What a network returns, by rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Output", "Stage"]


class Stage:
    """Features of one stage of a network, by rows.

    Attributes:
        feats: [M, C], one row per cell of the stage.
        edge: of its cells, in units of the batch's cells, per axis.
    """

    def __init__(self, feats: Tensor, rows: Tensor, edge: tuple[int, ...]) -> None:
        self.feats, self.edge = feats, edge
        self._rows = rows

    @property
    def rows(self) -> Tensor:
        """I64 [SV], the row of ``feats`` for each of the batch's cells."""
        return self._rows

    @property
    def channels(self) -> int:
        """Columns of the features."""
        return self.feats.shape[1]

    def at_cells(self) -> Tensor:
        """The features at each of the batch's cells, [SV, C]; an engine that can interpolate does."""
        return self.feats.index_select(0, self.rows)


@dataclass(frozen=True)
class Output:
    """What a network returns.

    Attributes:
        logits: [SV, outputs], by cell; column 0 is "ignore" and never predicted.
        stages: per-stage features, the encoder's first.
        encoder: how many of ``stages`` are the encoder's.
        point_logits: [SN, outputs], where the network learns to decide for each point.
        point_features: [SN, C], where the network has features of each point: what the layer that decides for it reads,
            or without one what is pooled into the cells.
        decided: bool [SN], the points that :attr:`point_decisions` has an answer for; None = all.
    """

    logits: Tensor
    stages: Sequence[Stage] = ()
    encoder: int = 0
    point_logits: Tensor | None = None
    point_features: Tensor | None = None
    decided: Tensor | None = None

    @property
    def point_decisions(self) -> Tensor | None:
        """[SN, outputs], from which scores and votes read the class of each point; None = from its cell's logits.

        A network whose points are decided by a rule that nothing learns from makes these when they are asked for.
        """
        return self.point_logits

    @property
    def encoder_stages(self) -> Sequence[Stage]:
        """The stages of the encoder, fine to coarse."""
        return self.stages[: self.encoder]

"""Scores of points, summed over the views of a scan."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from core.contracts import Batch

__all__ = ["Sums", "Tally", "Visits", "shown_points"]


class Tally(Protocol):
    """What views add up to."""

    @property
    def seen(self) -> int:
        """Views so far."""

    def add(self, scores: Tensor, shown: Tensor) -> None:
        """One more view: scores f32 [N, K], which may be changed, and the points bool [N] that its cells showed."""

    def total(self) -> Tensor:
        """F32 [N, K], the sums over the views."""


class Sums:
    """Every view counts for every point."""

    def __init__(self) -> None:
        self.seen = 0
        self._total = torch.empty(0)

    def add(self, scores: Tensor, shown: Tensor) -> None:
        """See :class:`Tally`."""
        self._total = scores if self.seen == 0 else self._total.add_(scores)
        self.seen += 1

    def total(self) -> Tensor:
        """See :class:`Tally`."""
        return self._total


class Visits:
    """The views that showed a point count for it, scaled to the number of all; of a point never shown, all count.

    So a point of a full cell, which few views showed, weighs as much as one that is alone in its cell: the published
    writer of logits adds up what it sees, which makes the latter's up to eight times as large.
    """

    def __init__(self) -> None:
        self._all, self._own, self._times = Sums(), Sums(), Sums()

    @property
    def seen(self) -> int:
        """Views so far."""
        return self._all.seen

    def add(self, scores: Tensor, shown: Tensor) -> None:
        """See :class:`Tally`."""
        times = shown[:, None].to(scores.dtype)
        self._own.add(scores * times, shown)
        self._times.add(times, shown)
        self._all.add(scores, shown)

    def total(self) -> Tensor:
        """See :class:`Tally`."""
        times = self._times.total()
        mean = self._own.total() / times.clamp_min(1)
        return torch.where(times > 0, mean * self.seen, self._all.total())


def shown_points(batch: Batch) -> Tensor:
    """Bool [SN], the points that represent their cells."""
    shown = torch.zeros_like(batch.cells.of_point, dtype=torch.bool)
    shown[batch.cells.point] = True
    return shown

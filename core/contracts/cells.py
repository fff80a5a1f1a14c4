"""How points fall into cells, for one view and for a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from core.contracts.scan import Sensor

__all__ = ["Cells", "Change", "Grouping", "Partition"]


@dataclass(frozen=True)
class Grouping:
    """Which points of a view share a cell.

    Attributes:
        coords: i32 [V, D] of each cell. point: i64 [V], the point that represents it. of_point: i64 [N], the cell of
            each point, -1 = none.
    """

    coords: np.ndarray
    point: np.ndarray
    of_point: np.ndarray

    def __len__(self) -> int:
        return len(self.coords)


class Partition(Protocol):
    """How points fall into cells; implementations are the ``data.partition`` sections of core.data.partitions."""

    @property
    def name(self) -> str:
        """Key of the registry."""

    @property
    def axes(self) -> int:
        """Coordinates of a cell."""

    @property
    def relative(self) -> bool:
        """Whether coordinates count from the smallest of each view, so that a part of one is counted anew."""

    def index(self, xyz: np.ndarray, sensor: Sensor) -> tuple[np.ndarray, np.ndarray | None]:
        """Cell i32 [N, D] of each point, and bool [N] whether it has one (None = all have)."""

    def rank(self, xyz: np.ndarray, sensor: Sensor) -> np.ndarray | None:
        """F32 [N]: of a cell's points the lowest represents it, the first of equals; None = the first point."""

    def centres(self, coords: np.ndarray, sensor: Sensor) -> np.ndarray:
        """F32 [M, 3] m, centres of cells [M, D] that :meth:`index` gave."""

    def group(self, xyz: np.ndarray, sensor: Sensor) -> Grouping:
        """The occupied cells and the points in them."""


Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Cells:
    """The cells of a batch. Rows of sample ``b`` are ``offsets[b]:offsets[b + 1]``.

    Attributes:
        partition: how they came about.
        coords: i32 [SV, 1 + D], batch index first.
        of_point: i64 [SN], row of each point's cell, -1 = none. point: i64 [SV], the point that represents each.
        labels: i64 [SV] train ids; where the reader gives no label they are 0 and never enter a loss.
        offsets: i64 [B + 1].
        tables: what is derived from the cells, made once and shared by every network that sees this batch: kernel maps
            (:class:`core.sparse.MapCache`) and the like, by kind.
    """

    partition: Partition
    coords: Tensor
    of_point: Tensor
    point: Tensor
    labels: Tensor
    offsets: Tensor
    tables: dict[Any, Any] = field(init=False, default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.coords)

    def apply(self, change: Change) -> Cells:
        """The same cells with every tensor changed; nothing derived from them comes along."""
        return Cells(
            self.partition,
            change(self.coords),
            change(self.of_point),
            change(self.point),
            change(self.labels),
            change(self.offsets),
        )

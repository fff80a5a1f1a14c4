"""A table of points: named columns with one row per point, cut and joined as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["Points"]


class Points:
    """Columns by name, each an array with one row per point.

    ``xyz`` f32 [N, 3] m, ``lag`` f32 [N] s and ``sweep`` i16 [N] (0 = the keyframe's own point, k = of the sweep
    appended as the k-th) are always there. Every cut and join takes all columns along, so none can be forgotten. Only
    ``sweep`` tells whose a point is: two scans may have one time.

    Args:
        xyz: f32 [N, 3] m. lag: f32 [N] s; None = 0 for all. sweep: i16 [N]; None = 0 for all.
        columns: further arrays with N rows; None = the column does not exist.

    Raises:
        ValueError: a column has another number of rows.
    """

    __slots__ = ("_columns",)

    def __init__(
        self,
        xyz: np.ndarray,
        lag: np.ndarray | None = None,
        sweep: np.ndarray | None = None,
        **columns: np.ndarray | None,
    ) -> None:
        if lag is None:
            lag = np.zeros(len(xyz), np.float32)
        if sweep is None:
            sweep = np.zeros(len(xyz), np.int16)
        self._columns: dict[str, np.ndarray] = {"xyz": xyz, "lag": lag, "sweep": sweep}
        for name, column in columns.items():
            if column is not None:
                self._columns[name] = column
        for name, column in self._columns.items():
            if len(column) != len(xyz):
                raise ValueError(f"column '{name}' has {len(column)} rows for {len(xyz)} points")

    def __len__(self) -> int:
        return len(self._columns["xyz"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> np.ndarray:
        return self._columns[name]

    def __repr__(self) -> str:
        described = ", ".join(
            f"{name} {column.dtype}{list(column.shape)}" for name, column in self._columns.items()
        )
        return f"Points({described})"

    def get(self, name: str) -> np.ndarray | None:
        """The column, or None where there is no such column."""
        return self._columns.get(name)

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        """All columns by name; not to be written to."""
        return self._columns

    def take(self, rows: np.ndarray | slice) -> Points:
        """Some of the points: a mask bool [N], row numbers i64 [M], or a slice."""
        return Points(**{name: column[rows] for name, column in self._columns.items()})

    def having(self, **columns: np.ndarray | None) -> Points:
        """The same points with these columns replaced or added; None takes a column away."""
        whole: dict[str, Any] = {**self._columns, **columns}
        return Points(**whole)

    def as_sweep(self, number: int, lag: float) -> Points:
        """The same points as the sweep that is appended to a keyframe as the ``number``-th.

        Args:
            number: 1 for the first. lag: s before the keyframe.
        """
        return self.having(
            lag=np.full(len(self), lag, np.float32),
            sweep=np.full(len(self), number, np.int16),
        )

    @staticmethod
    def join(*parts: Points) -> Points:
        """The points of all parts, one part after the other.

        A column that only some parts have is 0 (no class, no instance, not pasted) in the others; its type is that of
        the first part that has it.
        """
        names = dict.fromkeys(name for part in parts for name in part)
        filled = [part for part in parts if len(part)]
        if len(filled) == 1 and set(filled[0]) == set(names):
            return filled[0]
        joined: dict[str, np.ndarray] = {}
        for name in names:
            example = next(part[name] for part in parts if name in part)
            pieces = []
            for part in filled or parts:
                column = part.get(name)
                if column is None:
                    column = np.zeros((len(part), *example.shape[1:]), example.dtype)
                pieces.append(column.astype(example.dtype, copy=False))
            joined[name] = np.concatenate(pieces)
        return Points(**joined)

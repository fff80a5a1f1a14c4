"""How many labels were given, by whom, and how right they are where that can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from core.datasets.pseudo import SOURCES, GivenLabels

__all__ = ["PseudoReport", "confusion_of", "no_confusion"]


def no_confusion(classes: int) -> np.ndarray:
    """Zeros of the form that :func:`confusion_of` returns."""
    return np.zeros((1 + len(SOURCES), classes, classes), np.int64)


def confusion_of(truth: np.ndarray | None, given: GivenLabels, classes: int) -> np.ndarray:
    """Count the points of a scan by source, class on disk and given class.

    Args:
        truth: u8 [N], 0 = not known; None = of no point.

    Returns:
        i64 [1 + S, C, C]; source 0 and given class 0 are the points without a label.
    """
    known = np.zeros(len(given.label), np.int64) if truth is None else truth.astype(np.int64)
    cell = (given.source * classes + known) * classes + given.label
    counts = no_confusion(classes)
    return np.bincount(cell, minlength=counts.size).reshape(counts.shape)


@dataclass(frozen=True)
class PseudoReport:
    """What was written.

    Attributes:
        classes: by train id. scans: how many.
        confusion: sum of :func:`confusion_of` over them; labels on disk that the training does not see.
    """

    classes: tuple[str, ...]
    scans: int
    confusion: np.ndarray

    @property
    def points(self) -> int:
        """Of all scans."""
        return int(self.confusion.sum())

    @property
    def coverage(self) -> float:
        """Share of the points that got a label."""
        return float(self.confusion[1:].sum() / max(self.points, 1))

    @property
    def coverage_of_known(self) -> float | None:
        """The same of points with a class on disk; None = there are none."""
        known = self.confusion[:, 1:]
        if not known.any():
            return None
        return float(known[1:].sum() / known.sum())

    @property
    def accuracy(self) -> float | None:
        """Share of right labels among those that can be compared; None = none can."""
        return _accuracy(self._given)

    def iou(self, *, missing: bool = False) -> dict[str, float | None]:
        """IoU by class; None = the class does not occur.

        Args:
            missing: points without a label count as wrong; else they are left out.
        """
        table = self._table if missing else self._given
        values = _iou(table)
        return {name: _plain(value) for name, value in zip(self.classes[1:], values)}

    def miou(self, *, missing: bool = False) -> float | None:
        """Mean IoU over the classes that occur; None = nothing can be compared."""
        return _mean(_iou(self._table if missing else self._given))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "scans": self.scans,
            "points": self.points,
            "coverage": self.coverage,
            "coverage_of_known": self.coverage_of_known,
            "accuracy": self.accuracy,
            "miou": self.miou(),
            "miou_missing_wrong": self.miou(missing=True),
            "iou": self.iou(),
            "iou_missing_wrong": self.iou(missing=True),
            "sources": self.sources(),
        }

    def sources(self) -> dict[str, dict[str, float | None]]:
        """Of each source that gave a label: its share of all points, its accuracy, its mIoU over its own labels."""
        found: dict[str, dict[str, float | None]] = {}
        for name, counts in zip(SOURCES, self.confusion[1:]):
            if counts.any():
                own = counts[1:, 1:]
                share = float(counts.sum() / self.points)
                found[name] = {"share": share, "accuracy": _accuracy(own), "miou": _mean(_iou(own))}
        return found

    def text(self) -> str:
        """A few lines for a person."""
        lines = [
            f"{self.scans} scans, {self.points:,} points: {100 * self.coverage:.1f} % got a label"
        ]
        for name, found in self.sources().items():
            right = "" if found["accuracy"] is None else f", {100 * found['accuracy']:.1f} % right"
            lines.append(f"  from {name:<8} {100 * (found['share'] or 0):5.1f} %{right}")
        miou, of_all = self.miou(), self.miou(missing=True)
        if self.accuracy is None or miou is None or of_all is None:
            return "\n".join(lines)
        lines += [
            f"compared with labels the training does not see: {100 * self.accuracy:.1f} % right, mIoU "
            f"{100 * miou:.1f}; {100 * of_all:.1f} if points without a label count as wrong",
            f"  {'IoU':<22} given   all",
        ]
        of_all_points = self.iou(missing=True)
        for name, value in self.iou().items():
            whole = of_all_points[name]
            if whole is not None:
                lines.append(f"  {name:<22} {_percent(value)} {_percent(whole)}")
        return "\n".join(lines)

    @property
    def _table(self) -> np.ndarray:
        """I64 [C - 1, C]: class on disk -> given class, 0 = none."""
        table: np.ndarray = self.confusion.sum(0)[1:]
        return table

    @property
    def _given(self) -> np.ndarray:
        """I64 [C - 1, C - 1]: of points with a label and a class on disk."""
        return self._table[:, 1:]


def _accuracy(table: np.ndarray) -> float | None:
    if not table.any():
        return None
    return float(np.trace(table) / table.sum())


def _iou(table: np.ndarray) -> np.ndarray:
    """F64 [C - 1], NaN where the class does not occur.

    Args:
        table: i64 [C - 1, C - 1], or [C - 1, C] with the points without a label first.
    """
    square = table[:, table.shape[1] - table.shape[0] :]
    right = np.diag(square)
    there = table.sum(1)
    union = there + square.sum(0) - right
    return np.where(there > 0, right / np.maximum(union, 1), np.nan)


def _mean(values: np.ndarray) -> float | None:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else None


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _percent(value: float | None) -> str:
    return "    –" if value is None else f"{100 * value:5.1f}"

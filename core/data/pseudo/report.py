"""How many labels were given, by whom, and how right they are where that can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from core.contracts import IGNORE
from core.datasets.pseudo import SOURCES, GivenLabels
from core.metrics import Confusion

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
        return _accuracy(_among_given(self._counts))

    def iou(self, *, missing: bool = False) -> dict[str, float | None]:
        """IoU by class; None = the class does not occur.

        Args:
            missing: points without a label count as wrong; else they are left out.
        """
        scored = self._scored(missing)
        values = zip(self.classes, scored.iou().tolist(), scored.present().tolist())
        return {name: value if there else None for name, value, there in list(values)[1:]}

    def miou(self, *, missing: bool = False) -> float | None:
        """Mean IoU over the classes that occur; None = nothing can be compared."""
        return _finite(self._scored(missing).miou())

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
                found[name] = {
                    "share": float(counts.sum() / self.points),
                    "accuracy": _accuracy(counts),
                    "miou": _finite(_matrix(counts).miou()),
                }
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
    def _counts(self) -> np.ndarray:
        """I64 [C, C]: class on disk -> given class, of all sources."""
        counts: np.ndarray = self.confusion.sum(0)
        return counts

    def _scored(self, missing: bool) -> Confusion:
        return _matrix(self._counts if missing else _among_given(self._counts))


def _among_given(counts: np.ndarray) -> np.ndarray:
    """Without the points that got no label."""
    counts = counts.copy()
    counts[:, IGNORE] = 0
    return counts


def _matrix(counts: np.ndarray) -> Confusion:
    return Confusion(len(counts), torch.from_numpy(counts))


def _accuracy(counts: np.ndarray) -> float | None:
    """Share of right labels among the given ones whose class on disk is known; None = there are none."""
    compared = counts[IGNORE + 1 :, IGNORE + 1 :]
    if not compared.any():
        return None
    return float(np.trace(compared) / compared.sum())


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _percent(value: float | None) -> str:
    return "    –" if value is None else f"{100 * value:5.1f}"

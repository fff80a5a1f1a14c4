"""Writes labels for the unlabelled scans of a training split, and says how right they are where that can be told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from core.contracts import IGNORE
from core.data.sample import keyframe_scan
from core.datasets.budgeted import BudgetedScans
from core.datasets.pseudo import PSEUDO, pseudo_file, read_pseudo, write_pseudo
from core.decode import read_json
from core.errors import UserError
from core.io import write_json
from core.locks import sole_writer
from core.processes import WorkerPool

__all__ = ["Labeller", "PseudoReport", "write_pseudo_labels"]

Labeller = Callable[[int], tuple[np.ndarray, np.ndarray]]  # scan -> label u8 [N], confidence f32


@dataclass(frozen=True)
class PseudoReport:
    """What was written.

    Attributes:
        scans, points: how many. labelled: points that got a label.
        confusion: i64 [C, C], label on disk -> given, of points whose label on disk is known to the split but hidden
            from the training; all 0 where there are none.
    """

    classes: tuple[str, ...]
    scans: int
    points: int
    labelled: int
    confusion: np.ndarray

    @property
    def coverage(self) -> float:
        """Share of the points that got a label."""
        return self.labelled / max(self.points, 1)

    @property
    def accuracy(self) -> float | None:
        """Share of right labels among those that can be compared; None = none can."""
        compared = self.confusion[1:, 1:].sum()
        if not compared:
            return None
        return float(np.trace(self.confusion[1:, 1:]) / compared)

    def iou(self) -> dict[str, float | None]:
        """IoU by class of the given labels, over points that got one; None = the class does not occur."""
        found = self.confusion[1:, 1:]
        right = np.diag(found)
        union = found.sum(0) + found.sum(1) - right
        values: dict[str, float | None] = {}
        for name, hits, all_points, there in zip(self.classes[1:], right, union, found.sum(1)):
            values[name] = float(hits / all_points) if there else None
        return values

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "scans": self.scans,
            "points": self.points,
            "coverage": self.coverage,
            "accuracy": self.accuracy,
            "miou": self.miou,
            "iou": self.iou(),
        }

    @property
    def miou(self) -> float | None:
        """Mean IoU over the classes that occur; None = nothing can be compared."""
        values = [value for value in self.iou().values() if value is not None]
        return float(np.mean(values)) if values else None

    def text(self) -> str:
        """A few lines for a person."""
        lines = [
            f"{self.scans} scans, {self.points:,} points: {100 * self.coverage:.1f} % got a label"
        ]
        if self.accuracy is not None and self.miou is not None:
            lines.append(
                f"compared with labels the training does not see: {100 * self.accuracy:.1f} % right, "
                f"mIoU {100 * self.miou:.1f}"
            )
            for name, value in self.iou().items():
                if value is not None:
                    lines.append(f"  {name:<22} {100 * value:5.1f}")
        return "\n".join(lines)


def write_pseudo_labels(
    dataset: BudgetedScans,
    labeller: Labeller,
    out: Path,
    made_from: dict[str, Any],
    workers: int = 1,
) -> PseudoReport:
    """Write a file for each unlabelled scan; those that are there stay, so a killed command goes on.

    Args:
        dataset: the split under its budget, the rest in it.
        labeller: says what it knows of a scan; picklable.
        made_from: what else the labels depend on, JSON. workers: processes.

    Raises:
        UserError: every scan has labels, ``out`` holds labels made from something else, or a scan is damaged.
    """
    scans = np.flatnonzero(~dataset.budget).tolist()
    if not scans:
        raise UserError(
            "every scan of the training split has its labels",
            where="key 'dataset.labelled'",
            cure="Set a budget, e.g. --dataset.labelled '{fraction: 0.1}' --dataset.unlabelled rest",
        )
    labels = dataset.labels
    identity = {
        "fingerprint": labels.fingerprint,
        "labelled": dataset.labelled_digest,
        "made_from": made_from,
    }
    with sole_writer(out, "--out"):
        _begin(out, identity)
        total = np.zeros((labels.num_classes, labels.num_classes), np.int64)
        points = labelled = 0
        with _results(_Writer(dataset, labeller, out), scans, workers) as results:
            bar = tqdm(results, total=len(scans), unit="scan", disable=not sys.stderr.isatty())
            for confusion, count, known in bar:
                total += confusion
                points += count
                labelled += known
        report = PseudoReport(labels.classes, len(scans), points, labelled, total)
        write_json(out / PSEUDO, identity | {"report": report.to_json()})
    return report


def _begin(out: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder of other labels; what is written there first names what they are made from."""
    started = out / f".{PSEUDO}.started"
    for path in (out / PSEUDO, started):
        if not path.is_file():
            continue
        found = read_json(path, dict[str, Any])
        if {key: found.get(key) for key in identity} != identity:
            raise UserError(
                "this folder holds labels that were made from something else",
                where=str(path),
                cure="Give another folder with --out, or delete this one",
            )
        return
    write_json(started, identity)


@contextmanager
def _results(
    work: _Writer, scans: Sequence[int], workers: int
) -> Iterator[Iterator[tuple[np.ndarray, int, int]]]:
    count = min(workers, len(scans))
    if count <= 1:
        yield map(work, scans)
        return
    with WorkerPool(work, count, "--workers", work.dataset.token) as pool:
        yield pool.run(scans)


@dataclass(frozen=True)
class _Writer:
    """Labels one scan, in any process."""

    dataset: BudgetedScans
    labeller: Labeller
    out: Path

    def __call__(self, index: int) -> tuple[np.ndarray, int, int]:
        """Confusion with labels on disk [C, C], points, points with a label."""
        token = self.dataset.token(index)
        truth = keyframe_scan(self.dataset.with_labels(index))
        points = len(truth.points)
        if pseudo_file(self.out, token).is_file():
            label, _ = read_pseudo(self.out, token, points)
        else:
            label, confidence = self.labeller(index)
            write_pseudo(self.out, token, label, confidence)
        classes = self.dataset.labels.num_classes
        confusion = np.zeros((classes, classes), np.int64)
        if truth.labels is not None:
            pairs = truth.labels.astype(np.int64) * classes + label
            confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        return confusion, points, int(np.count_nonzero(label != IGNORE))

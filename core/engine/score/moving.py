"""How well what moves is found, in the three ways in which the field counts it.

``official`` is semantic-kitti-api's: points without a label are dropped, and a labelled point without a prediction is a
miss. ``all points`` (KDMOS's own tool by default) drops nothing: "moving" predicted where there is no label is wrong.
``predicted points`` (what KDMOS and MotionBEV print while they train) also drops labelled points without a prediction,
so that a missed one costs nothing. Only the first compares with the benchmark.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from core.contracts import IGNORE, Batch
from core.datasets.base import ScanDataset
from core.datasets.motion_maps import poses_digest
from core.engine.run.distributed import sum_over_ranks
from core.engine.score.evaluation import counted_points
from core.labels import LabelSpace
from core.metrics import Confusion, EvaluationResult

__all__ = [
    "MOVING",
    "Counting",
    "MovingScore",
    "SequenceCounts",
    "moving_class",
    "moving_line",
    "moving_score",
    "with_moving",
]

MOVING = "moving"  # name of the class
Counting = Literal["official", "all points", "predicted points"]
COUNTINGS: tuple[Counting, ...] = get_args(Counting)


@dataclass(frozen=True)
class MovingScore:
    """Counts of points: moving and found, found in vain, moving and missed."""

    hits: int
    false: int
    missed: int

    @property
    def iou(self) -> float:
        """0..1; NaN where nothing moves and nothing was found."""
        return _share(self.hits, self.hits + self.false + self.missed)

    @property
    def precision(self) -> float:
        """Share of what was found that moves; NaN where nothing was found."""
        return _share(self.hits, self.hits + self.false)

    @property
    def recall(self) -> float:
        """Share of what moves that was found; NaN where nothing moves."""
        return _share(self.hits, self.hits + self.missed)

    def to_json(self) -> dict[str, float | None]:
        """In percent; None where there is nothing to count."""
        values = {"iou": self.iou, "precision": self.precision, "recall": self.recall}
        return {name: None if math.isnan(v) else 100 * v for name, v in values.items()}


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def moving_class(labels: LabelSpace) -> int | None:
    """Train id of what moves; None where the classes do not tell it."""
    return labels.classes.index(MOVING) if MOVING in labels.classes else None


def moving_score(confusion: Confusion, moving: int, counting: Counting = "official") -> MovingScore:
    """Count from a matrix of all points, those without label or prediction in row and column 0.

    Args:
        moving: train id of the class.
    """
    counts = confusion.counts.cpu().clone()
    if counting != "all points":
        counts[IGNORE] = 0
    if counting == "predicted points":
        counts[:, IGNORE] = 0
    hits = int(counts[moving, moving])
    return MovingScore(hits, int(counts[:, moving].sum()) - hits, int(counts[moving].sum()) - hits)


class SequenceCounts:
    """A matrix of all points for each scene or sequence of a split; called with each batch and its predictions."""

    def __init__(self, scans: ScanDataset, device: torch.device | str = "cpu") -> None:
        scenes = [scans.scene(index) for index in range(len(scans))]
        self.names = tuple(dict.fromkeys(scenes))
        number = {name: k for k, name in enumerate(self.names)}
        self._of_scan = [number[scene] for scene in scenes]
        classes = scans.labels.num_classes
        shape = (len(self.names), classes, classes)
        self.counts = torch.zeros(shape, dtype=torch.int64, device=device)

    def number_of(self, scan: int) -> int:
        """Position in ``names`` of the scene of a scan."""
        return self._of_scan[scan]

    def __call__(self, batch: Batch, predicted: Tensor) -> None:
        """Add the counted points of a batch."""
        scenes = torch.tensor(
            [self._of_scan[index] for index in batch.indices], device=predicted.device
        )
        of_point = scenes.repeat_interleave(batch.point_offsets.diff())
        counted = counted_points(batch)
        self.add(of_point[counted], batch.point_labels[counted], predicted[counted])

    def add(self, scene: Tensor, truth: Tensor, predicted: Tensor) -> None:
        """Add points.

        Args:
            scene, truth, predicted: integers [N].
        """
        classes = self.counts.shape[1]
        flat = (scene.long() * classes + truth.long()) * classes + predicted.long()
        added = torch.bincount(flat, minlength=self.counts.numel()).view_as(self.counts)
        self.counts += added.to(self.counts.device)

    def by_name(self) -> dict[str, Confusion]:
        """The matrices of all ranks; every rank calls this."""
        counts = sum_over_ranks(self.counts.double()).long()
        return {
            name: Confusion(counts.shape[1], matrix) for name, matrix in zip(self.names, counts)
        }


def with_moving(
    result: EvaluationResult,
    sequences: Mapping[str, Confusion],
    scans: ScanDataset,
    features: Sequence[str] = (),
) -> EvaluationResult:
    """The result, with all that is told of what moves in ``extra``; as it is where the classes do not tell what moves.

    Scores are in percent, in all three countings, and in the official one by range and sequence; beside them stand the
    delay of each column of motion that is read and the digest of the poses.

    Args:
        features: names of the columns that the network reads.
    """
    moving = moving_class(scans.labels)
    if moving is None:
        return result
    delays = {}
    for name, column in scans.columns.items():
        if column.motion is not None and name in features:
            delays[name] = column.motion.delay
    record = {
        "countings": {c: moving_score(result.overall, moving, c).to_json() for c in COUNTINGS},
        "by_range": _official(result.by_range, moving),
        "by_sequence": _official(sequences, moving),
        "delays": delays,
        "poses_sha256": _poses_of(scans),
    }
    return replace(result, extra=result.extra | {"moving": record})


def _official(matrices: Mapping[str, Confusion], moving: int) -> dict[str, Any]:
    return {name: moving_score(matrix, moving).to_json() for name, matrix in matrices.items()}


def _poses_of(scans: ScanDataset) -> str:
    """SHA-256 (hex) of the pose files of all drives, empty where there is none."""
    first = {scans.scene(index): index for index in reversed(range(len(scans)))}
    digests = []
    for scene in sorted(first):
        digests.append(poses_digest(scans.pose_files(first[scene])))
    if not any(digests):
        return ""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def moving_line(result: EvaluationResult) -> str:
    """What moves, in a few words; empty where nothing is told of it."""
    record = result.extra.get("moving")
    if not record:
        return ""
    told = []
    for name, value in record["countings"]["official"].items():
        shown = "none" if value is None else f"{value:.2f}"
        told.append(f"{'IoU' if name == 'iou' else name} {shown}")
    ahead = max(record["delays"].values(), default=0)
    looks = f", looking {ahead} scans ahead" if ahead else ""
    return f"moving: {', '.join(told)}{looks}"

"""Semantic segmentation scores from confusion matrices, as the official tools compute them.

semantic-kitti-api (``evaluate_semantics.py``): points whose truth is "ignore" are dropped; a prediction of "ignore" on
any other point is a false negative; IoU = TP / (TP + FP + FN). nuscenes-devkit (``eval/lidarseg``) computes the same,
forbids predictions of "ignore", and averages with ``nanmean``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from core.contracts import IGNORE
from core.decode import check_json, read_json
from core.errors import UserError, counted

__all__ = ["RANGE_BINS", "VIEWS", "Absent", "Confusion", "EvaluationResult", "SegmentationScore"]

# m from the sensor
RANGE_BINS: tuple[tuple[float, float], ...] = ((0.0, 20.0), (20.0, 50.0), (50.0, math.inf))
Count = Annotated[int, Field(ge=0, lt=1 << 53)]  # so many points that floats still count them
Absent = Literal["skip", "nanmean", "zero", "one", "nan_one"]
_WRITE_AGAIN = "Write it again with evaluate.py --json"


def _count(flat: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.bincount(flat, minlength=math.prod(shape)).view(shape)


def _check_ids(name: str, ids: Tensor, num_classes: int) -> None:
    """An id outside [0, C) would silently be counted in another cell of the flattened matrix."""
    if len(ids):
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= num_classes:
            raise ValueError(f"{name} holds ids {low}..{high}, expected 0..{num_classes - 1}")


class Confusion:
    """Confusion matrix: rows are truth, columns prediction, class 0 (ignore) included.

    Args:
        num_classes: C, with class 0.
        counts: int64 [C, C] to start from; zeros on ``device`` if not given.
    """

    def __init__(
        self, num_classes: int, counts: Tensor | None = None, device: torch.device | str = "cpu"
    ) -> None:
        shape = (num_classes, num_classes)
        if counts is None:
            counts = torch.zeros(shape, dtype=torch.int64, device=device)
        self.num_classes = num_classes
        self.counts = counts
        if self.counts.shape != shape:
            raise ValueError(f"counts are {tuple(self.counts.shape)}, expected {shape}")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add points.

        Args:
            prediction, truth: integer [N], values in [0, C), on the device of the counts.

        Raises:
            ValueError: a value outside [0, C).
        """
        _check_ids("prediction", prediction, self.num_classes)
        _check_ids("truth", truth, self.num_classes)
        flat = truth.long() * self.num_classes + prediction.long()
        self.counts += _count(flat, tuple(self.counts.shape))

    def iou(self) -> Tensor:
        """Compute the IoU, f64 [C] on the CPU.

        It is NaN for class 0 and for classes neither in the truth nor predicted on a valid point.
        """
        counts = self.counts.cpu().double()
        counts[IGNORE] = 0
        hits = counts.diagonal()
        union = counts.sum(0) + counts.sum(1) - hits
        iou = torch.where(union > 0, hits / union, torch.nan)
        iou[IGNORE] = torch.nan
        return iou

    def present(self) -> Tensor:
        """Tell for each class whether the truth holds it, bool [C] on the CPU (class 0 never counts)."""
        present = self.counts.sum(1).cpu() > 0
        present[IGNORE] = False
        return present

    def miou(self, absent: Absent = "skip") -> float:
        """Average the IoU over the classes, "ignore" left out.

        Args:
            absent: what a class without ground truth counts as. ``skip``: left out. ``nanmean``: left out only if never
                predicted either (nuscenes-devkit). ``zero``: 0 (semantic-kitti-api). ``one``: 1.
                ``nan_one``: 1 if never predicted either, else 0 (Waymo's metric tool).

        Returns:
            0..1; NaN when no class is scored.
        """
        iou, present = self.iou(), self.present()
        if absent == "skip":
            iou = iou[present]
        elif absent == "nanmean":
            iou = iou[~iou.isnan()]
        elif absent == "nan_one":
            iou = iou.nan_to_num(1.0)[IGNORE + 1 :]
        else:
            worth = 0.0 if absent == "zero" else 1.0
            iou = torch.where(present, iou, worth)[IGNORE + 1 :]
        return float(iou.mean()) if len(iou) else math.nan

    def legacy_miou(self) -> float:
        """Compute the lenient variant of 2DPASS's published scores: row and column 0 removed, then ``nanmean``.

        Points predicted as "ignore" vanish there instead of counting as misses, which flatters a network that leaves
        points unlabelled: 60 right and 40 "ignore" score 1.00 instead of 0.60.
        """
        lenient = self.counts.clone()
        lenient[:, IGNORE] = 0
        return Confusion(self.num_classes, lenient).miou("nanmean")


VIEWS = ("out of view", "in view")  # subsets: of the cameras given with a scan


class SegmentationScore:
    """One confusion matrix per range bin, and their sum; also one per named subset of the points.

    Args:
        num_classes: C, with class 0.
        subsets: names; a point may be in several of them, or in none.
    """

    def __init__(
        self,
        num_classes: int,
        device: torch.device | str = "cpu",
        subsets: Sequence[str] = VIEWS,
    ) -> None:
        shape = (num_classes, num_classes)
        self.num_classes = num_classes
        self.subset_names = tuple(subsets)
        self.counts = torch.zeros((len(RANGE_BINS), *shape), dtype=torch.int64, device=device)
        # one tensor, the same on all ranks: some may have met no point of a subset
        self.subset_counts = torch.zeros((len(subsets), *shape), dtype=torch.int64, device=device)
        edges = [high for _, high in RANGE_BINS[:-1]]
        self._edges = torch.tensor(edges, device=device)

    @property
    def overall(self) -> Confusion:
        """The matrix of all points."""
        return Confusion(self.num_classes, self.counts.sum(0))

    @property
    def ranges(self) -> list[Confusion]:
        """One matrix per bin of ``RANGE_BINS``."""
        return [Confusion(self.num_classes, counts) for counts in self.counts]

    @property
    def subsets(self) -> dict[str, Confusion]:
        """One matrix per subset that has points."""
        matrices = {}
        for name, counts in zip(self.subset_names, self.subset_counts):
            if bool(counts.any()):
                matrices[name] = Confusion(self.num_classes, counts)
        return matrices

    def update(
        self,
        prediction: Tensor,
        truth: Tensor,
        distance: Tensor,
        subsets: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Add points.

        Args:
            prediction, truth: integer [N], values in [0, C). distance: f32 [N] m from the sensor. A bin is (low, high],
                the first includes 0. subsets: bool [N] by name, the points in it.

        Raises:
            ValueError: a class outside [0, C), or a subset that the score was not made with.
        """
        _check_ids("prediction", prediction, self.num_classes)
        _check_ids("truth", truth, self.num_classes)
        size = self.num_classes
        cell = truth.long() * size + prediction.long()
        ranges = torch.bucketize(distance.to(self._edges), self._edges)
        self.counts += _count(ranges * size**2 + cell, tuple(self.counts.shape))
        for name, inside in subsets.items():
            number = self.subset_names.index(name)
            self.subset_counts[number] += _count(cell[inside], (size, size))

    def all_reduce(self) -> None:
        """Sum over all processes, if there are several; every process then holds the score of all points."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self.counts)
            torch.distributed.all_reduce(self.subset_counts)


@dataclass(frozen=True)
class EvaluationResult:
    """A score with everything needed to say what it is a score of.

    Attributes:
        dataset, split: what was scored, e.g. ``nuscenes``, ``val``.
        classes: index = train id; ``classes[0]`` is "ignore".
        confusion: C x C counts, rows truth. ranges: the same per range bin, keys ``0-20``, ``20-50``, ``50+`` (m).
        num_scans, num_points: scored scans, and points including those whose truth is "ignore".
        seconds: wall time of the evaluation.
        checkpoint, checkpoint_sha256: the scored weights. command: the exact command line.
        votes: test-time augmentations (1 = none).
        subsets: confusion matrices of named subsets of the points: those that a camera sees and those none sees, where
            there are cameras, and those of the benchmark, such as Waymo's first return.
        extra: anything else worth keeping beside the score.
        commit, processor, date: the code that scored, the machine it ran on, and the day (ISO 8601); empty in files
            older than these fields.
        made_up: the scans are of a synthetic world. split_scans: scans of the whole split, official where it is;
            None in files older than this field.
        absent: what a class without ground truth counts as in the benchmark's own tool, see :meth:`Confusion.miou`.
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    confusion: list[list[Count]]
    ranges: dict[str, list[list[Count]]]
    num_scans: Count
    num_points: Count
    seconds: float
    checkpoint: str
    checkpoint_sha256: str
    command: str
    votes: int = 1
    subsets: dict[str, list[list[Count]]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    processor: str = ""
    date: str = ""
    made_up: bool = False
    split_scans: Count | None = None
    absent: Absent = "skip"

    @classmethod
    def from_score(
        cls, score: SegmentationScore, *, classes: Sequence[str], **metadata: Any
    ) -> EvaluationResult:
        """Freeze a finished score; ``metadata`` holds the remaining attributes."""
        ranges = {}
        for (low, high), confusion in zip(RANGE_BINS, score.ranges):
            name = f"{low:g}-{high:g}" if high < math.inf else f"{low:g}+"
            ranges[name] = confusion.counts.tolist()
        subsets = {name: confusion.counts.tolist() for name, confusion in score.subsets.items()}
        return cls(
            classes=tuple(classes),
            confusion=score.overall.counts.tolist(),
            ranges=ranges,
            subsets=subsets,
            **metadata,
        )

    def _matrix(self, counts: list[list[int]]) -> Confusion:
        return Confusion(len(self.classes), torch.tensor(counts, dtype=torch.int64))

    @property
    def overall(self) -> Confusion:
        """The matrix of all points."""
        return self._matrix(self.confusion)

    @property
    def by_range(self) -> dict[str, Confusion]:
        """One matrix per range bin."""
        return {name: self._matrix(counts) for name, counts in self.ranges.items()}

    @property
    def by_subset(self) -> dict[str, Confusion]:
        """One matrix per named subset of the points."""
        return {name: self._matrix(counts) for name, counts in self.subsets.items()}

    @property
    def scored(self) -> str:
        """What was scored, for a person: "SemanticKITTI val, 9 of 4,071 scans"."""
        scans = counted(self.num_scans, "scan")
        if self.split_scans not in (None, self.num_scans):
            scans = f"{self.num_scans:,} of {self.split_scans:,} scans"
        return f"{self.dataset} {self.split}, {scans}"

    @property
    def caveat(self) -> str:
        """Why this score does not compare with published ones; empty where nothing speaks against it."""
        if self.made_up:
            return f"Made-up data ({self.dataset}): not comparable with published scores"
        if self.split_scans not in (None, self.num_scans):
            return f"Part of a split ({self.scored}): not comparable with published scores"
        return ""

    @property
    def miou(self) -> float:
        """Mean IoU over the classes present, 0..1."""
        return self.overall.miou()

    @property
    def miou_official(self) -> float:
        """Mean IoU as the benchmark's own tool averages, see :attr:`absent`; that of all points, 0..1."""
        return self.overall.miou(self.absent)

    @property
    def miou_legacy(self) -> float:
        """The lenient variant, see :meth:`Confusion.legacy_miou`."""
        return self.overall.legacy_miou()

    @property
    def classes_scored(self) -> int:
        """Number of classes that the truth holds; :attr:`miou` averages over these."""
        return int(self.overall.present().sum())

    @property
    def iou(self) -> dict[str, float | None]:
        """Per class without "ignore", 0..1; None where the truth does not hold the class."""
        return self.iou_of(self.overall)

    def iou_of(self, confusion: Confusion) -> dict[str, float | None]:
        """Compute :attr:`iou` of another matrix, say one of :attr:`by_range`."""
        values = zip(self.classes, confusion.iou().tolist(), confusion.present().tolist())
        of_class = {}
        for name, iou, present in list(values)[IGNORE + 1 :]:
            of_class[name] = iou if present else None
        return of_class

    def to_json(self) -> dict[str, Any]:
        """Give plain values: the counts, and the scores derived from them in percent; None where nothing is scored."""
        overall = self.overall
        derived = {
            "miou": _percent(overall.miou()),
            "miou_all_classes": _percent(overall.miou("zero")),
            "miou_official": _percent(self.miou_official),
            "miou_legacy": _percent(overall.legacy_miou()),
            "classes_scored": self.classes_scored,
            "iou": {name: _percent(iou) for name, iou in self.iou.items()},
            "miou_by_range": _mious(self.by_range),
            "miou_by_subset": _mious(self.by_subset),
        }
        return derived | asdict(self) | {"classes": list(self.classes)}

    @classmethod
    def read(cls, path: Path) -> EvaluationResult:
        """Read a file of :meth:`to_json`.

        Raises:
            UserError: it is missing or damaged, or see :meth:`from_json`.
        """
        return cls.from_json(read_json(path), str(path))

    @classmethod
    def from_json(cls, value: object, where: str | None = None) -> EvaluationResult:
        """Undo :meth:`to_json`; derived scores are computed anew. Files of earlier versions call subsets ``views``.

        Args:
            where: the file the value comes from, for the error.

        Raises:
            UserError: a key is missing or of another type, or a matrix does not fit the classes.
        """
        if isinstance(value, dict) and "views" in value:
            value = {"subsets": value["views"], **value}
        result = check_json(value, where or "evaluation", cls, cure=_WRITE_AGAIN)
        result._check_matrices(where)
        return result

    def _check_matrices(self, where: str | None) -> None:
        size = len(self.classes)
        matrices = {"confusion": self.confusion, **self.ranges, **self.subsets}
        for name, counts in matrices.items():
            if len(counts) != size or any(len(row) != size for row in counts):
                raise UserError(
                    f"the matrix '{name}' is not {size} x {size}, one row per class",
                    where=where,
                    cure=_WRITE_AGAIN,
                )


def _percent(value: float | None) -> float | None:
    if value is None or math.isnan(value):
        return None
    return 100 * value


def _mious(matrices: Mapping[str, Confusion]) -> dict[str, float | None]:
    """Mean IoU of each matrix in percent."""
    return {name: _percent(confusion.miou()) for name, confusion in matrices.items()}

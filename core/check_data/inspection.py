"""Looks at every scan of a split, as a job of the configuration would read it."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from core.config import Config
from core.contracts import IGNORE
from core.data import DataConfig, Recipe
from core.data.labelled import missing_labels
from core.datasets import build_dataset
from core.datasets.base import Multisweeps, ScanDataset, ScanFiles
from core.datasets.official import shortfall
from core.errors import UserError

__all__ = ["Fault", "FaultKind", "SplitReport", "check_scan", "fault_of", "inspect_split"]

FaultKind = Literal["unusable", "missing", "incomplete", "damaged", "unlabelled"]
_LINE = re.compile(r"\bline (\d+)")
_PATH = re.compile(r"(?!scan )[^,]*/[^,]*")  # "scan 08/000001" names no file


@dataclass(frozen=True)
class Fault:
    """One reason why a job cannot use a split as it is.

    Attributes:
        kind: ``unusable``: the split cannot be opened; ``missing``: files that are not there; ``incomplete``: fewer
            scans than the official split; ``damaged``: a scan that cannot be used; ``unlabelled``: no point has a
            class.
        text: what is wrong and what to do about it, one line.
        file: where it is; None where it is in no single file. line: in that file, from 1.
        scan: token of the scan.
    """

    kind: FaultKind
    text: str
    file: str | None = None
    line: int | None = None
    scan: str | None = None


@dataclass
class SplitReport:
    """What was found of one split.

    Attributes:
        title: of the data set, which says whether the world is made up. root: folder of the data.
        scans: those a job would use. expected: those of the official split, None if the split is the user's own.
        faults: what keeps a job from using the whole split.
        optional: what only jobs of other kinds need and is not there.
        left_out: what is not there and is done without, because of ``dataset.partial``.
        points: by class name; None where nothing was read.
    """

    split: str
    title: str = ""
    root: str = ""
    description: str = ""
    scans: int = 0
    expected: int | None = None
    faults: list[Fault] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    points: dict[str, int] | None = None

    @property
    def ok(self) -> bool:
        """Whether a job can use the whole split."""
        return not self.faults

    def texts(self, *kinds: FaultKind) -> list[str]:
        """The faults of these kinds as lines."""
        return [fault.text for fault in self.faults if fault.kind in kinds]


def fault_of(error: UserError, kind: FaultKind, scan: str | None = None) -> Fault:
    """A fault as a reader told it; file and line are taken from where it says it is."""
    file = line = None
    place = error.where or ""
    found = _PATH.match(place)
    if found is not None:
        file = found[0]
    numbered = _LINE.search(place) or _LINE.search(error.what)
    if file is not None and numbered is not None:
        line = int(numbered[1])
    return Fault(kind, str(error), file, line, scan)


def inspect_split(
    config: Config, split: str, *, quick: bool = False, cameras: bool = False
) -> SplitReport:
    """Check one split.

    Args:
        quick: compare file sizes in place of reading the files.
        cameras: images are required, and decoded unless ``quick``.

    Returns:
        The report; of a split that cannot be opened at all it holds the reason alone.
    """
    report = SplitReport(split)
    try:
        dataset = build_dataset(config, split)
    except UserError as error:
        report.faults.append(fault_of(error, "unusable"))
        return report
    report.title, report.root = dataset.title, str(dataset.root)
    report.description = dataset.describe()
    report.scans, report.expected = len(dataset), dataset.expected
    _add_gaps(report, dataset, cameras)
    if split != "test" and dataset.config.use_labels:
        lack = missing_labels(dataset, "which training and evaluation need")
        if lack is not None:
            report.faults.append(fault_of(lack, "unlabelled"))
    data = config.parse(DataConfig, "data")
    recipe = replace(Recipe.of(data, training=False), images=False)
    total = np.zeros(dataset.labels.num_classes, np.int64)
    check = partial(check_scan, dataset, recipe, quick=quick, cameras=cameras)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = pool.map(check, range(len(dataset)))
        hidden = not sys.stderr.isatty()
        for result in tqdm(results, total=len(dataset), desc=split, unit="scan", disable=hidden):
            if isinstance(result, Fault):
                report.faults.append(result)
            elif result is not None:
                total += result
    if total.any():
        report.points = {name: int(count) for name, count in zip(dataset.labels.classes, total)}
        _add_unlabelled(report, dataset, total)
    return report


def _add_gaps(report: SplitReport, dataset: ScanDataset, cameras: bool) -> None:
    """Sort what is not there into faults, what is left out on purpose, and what other jobs need."""
    required = {
        "lidar": True,
        "cameras": cameras,
        "sweeps": _joins_sweeps(dataset),
        "nothing": False,
    }
    for gap in dataset.gaps():
        if not required[gap.needed_for]:
            report.optional.append(gap.text)
        elif gap.needed_for == "lidar" and dataset.config.partial and not gap.unread:
            report.left_out.append(gap.text)
        else:
            report.faults.append(Fault("missing", gap.text))
    lack = shortfall(dataset)
    if lack is not None and not dataset.config.partial:
        text = f"{lack}; write dataset.partial: true to work on what is there"
        report.faults.append(Fault("incomplete", text))


def _add_unlabelled(report: SplitReport, dataset: ScanDataset, total: np.ndarray) -> None:
    if total[IGNORE + 1 :].any():
        return
    text = (
        f"0 of {total.sum():,} points have a class in the label space '{dataset.labels.name}'; "
        "check its 'map:' (dataset.labels) and the label files"
    )
    report.faults.append(Fault("unlabelled", text))


def _joins_sweeps(dataset: ScanDataset) -> bool:
    sweeps = getattr(dataset.config, "multisweeps", None)
    return isinstance(sweeps, Multisweeps) and sweeps.num_sweeps > 0


def check_scan(
    dataset: ScanDataset, recipe: Recipe, index: int, *, quick: bool, cameras: bool
) -> Fault | np.ndarray | None:
    """Check one scan: read it, and bring its points into the cells of the configuration.

    Returns:
        a fault, or points per train id of its keyframe i64 [C], or None where no labels were read.
    """
    try:
        if quick:
            _compare_sizes(dataset, index, cameras)
            return None
        scan = dataset.load(index, cameras=cameras)
        for camera in scan.cameras:
            camera.load()
        recipe.sample(scan, index)
    except UserError as error:
        fault = fault_of(error, "damaged", dataset.token(index))
        if fault.file is None:
            fault = replace(fault, file=str(dataset.files(index).points))
        return fault
    if scan.labels is None:
        return None
    return np.bincount(scan.labels[scan.keyframe], minlength=dataset.labels.num_classes)


def _compare_sizes(dataset: ScanDataset, index: int, cameras: bool) -> None:
    files = dataset.files(index)
    point = 4 * dataset.member(index)[0].point_fields
    size = _size(files.points)
    if not size or (point and size % point):
        raise UserError(
            f"{size} bytes, not a positive multiple of {point or 1} per point",
            where=str(files.points),
        )
    if files.labels is not None and not (point and _is_raw(files)):
        _size(files.labels)
    elif files.labels is not None:
        wanted = size // point * dataset.label_dtype.itemsize
        if (found := _size(files.labels)) != wanted:
            raise UserError(
                f"{found} bytes; the scan's {size // point} points need {wanted}",
                where=str(files.labels),
            )
    for path in dataset.column_files(index).values():
        _size(path)
    if not cameras:
        return
    for path in files.images.values():
        if not _size(path):
            raise UserError("the image is empty", where=str(path))


def _is_raw(files: ScanFiles) -> bool:
    """Whether the labels are ids alone, so that their number shows in the file's size."""
    if files.labels is None or files.labels == files.points:
        return False
    return files.labels.suffix.lower() not in (".npy", ".npz")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error

"""Whether a split holds any labelled point: a mean over none of them would be taken for a result."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from loguru import logger

from core.contracts import IGNORE, Scan
from core.data.config import DataConfig
from core.datasets.base import ScanDataset
from core.datasets.find import find_files
from core.errors import UserError, counted

__all__ = ["Unlabelled", "absent_classes", "check_labelled", "find_unlabelled", "missing_labels"]

_SHOWN = 8  # raw ids in a message
_TOLD = 200  # scans without a label before the search is mentioned


@dataclass
class Unlabelled:
    """What was found of a split in which no point has a class.

    Attributes:
        scans, points: how many were looked at. raw_ids: what the label files hold, as far as they can be read so.
    """

    dataset: ScanDataset
    scans: int = 0
    points: int = 0
    raw_ids: set[int] = field(default_factory=set)

    def error(self) -> UserError:
        """The paragraph for a person."""
        labels = self.dataset.labels
        found = ""
        if self.raw_ids:
            listed = ", ".join(map(str, sorted(self.raw_ids)[:_SHOWN]))
            more = ", …" if len(self.raw_ids) > _SHOWN else ""
            found = f" (raw ids found: {listed}{more})"
        points = f"0 of {self.points:,} points of {counted(self.scans, 'scan')}"
        return UserError(
            f"{self.dataset.split} split: {points} have a class in the label space "
            f"'{labels.name}'{found}",
            where=str(self.dataset.root),
            cure=self._cure(),
        )

    def _cure(self) -> str:
        if self.raw_ids == {0}:
            return "The label files hold id 0 alone; label the scans, or name the right files"
        if any(self.dataset.labels.raw_to_train.get(raw, IGNORE) != IGNORE for raw in self.raw_ids):
            return "The labelled points lie outside data.point_range; widen it, or set it to null"
        return "Check the label space's 'map:' (dataset.labels), or choose a split with labels"


def find_unlabelled(dataset: ScanDataset, data: DataConfig) -> Unlabelled | None:
    """Look for a labelled point that a job can use; the first one ends the search.

    A scan that cannot be read tells nothing. Scans are looked at in a fixed shuffled order, so that one drive without
    labels costs little.

    Args:
        data: points outside its ``point_range`` do not count.

    Returns:
        None where there is such a point, or no scan could be read.

    Raises:
        UserError: no scan could be read, and ``data.on_bad_sample`` is ``raise``.
    """
    found = Unlabelled(dataset)
    failure: UserError | None = None
    for index in _shuffled(dataset):
        try:
            scan = dataset.load(index, cameras=False)
        except UserError as error:
            failure = failure or error
            continue
        if _has_class(scan, data):
            return None
        found.scans += 1
        found.points += int(scan.keyframe.sum())
        found.raw_ids |= _raw_ids(dataset, index)
        if found.scans == _TOLD:
            logger.info("no label in {} {} scans; looking at the others", _TOLD, dataset.split)
    if found.scans:
        return found
    if failure is not None and data.on_bad_sample == "raise":
        raise failure
    return None


def _shuffled(dataset: ScanDataset) -> list[int]:
    """Positions of the scans that may have labels."""
    order = np.random.default_rng(0).permutation(len(dataset))
    return (order if dataset.budget is None else order[dataset.budget[order]]).tolist()


def absent_classes(dataset: ScanDataset) -> list[str]:
    """Classes of which no labelled scan has a point; the search ends when all were seen.

    Scans that cannot be read tell nothing.
    """
    seen = {IGNORE}
    for index in _shuffled(dataset):
        try:
            seen |= _classes_of(dataset, index)
        except (UserError, OSError):  # damaged: the training has its own way with it
            continue
        if len(seen) == dataset.labels.num_classes:
            return []
    return [name for k, name in enumerate(dataset.labels.classes) if k not in seen]


def _classes_of(dataset: ScanDataset, index: int) -> set[int]:
    """Train ids that occur in a scan's labels; from the file of labels alone where that is a plain array."""
    raw = _raw_ids(dataset, index)
    if raw:
        where = str(dataset.files(index).labels)
        return set(dataset.labels.to_train(np.array(sorted(raw)), where).tolist())
    labels = dataset.load(index, cameras=False).labels
    return set() if labels is None else set(np.unique(labels).tolist())


def check_labelled(dataset: ScanDataset, data: DataConfig) -> None:
    """Refuse a split without a labelled point.

    Raises:
        UserError: there is none; see :func:`find_unlabelled`.
    """
    unlabelled = find_unlabelled(dataset, data)
    if unlabelled is not None:
        raise unlabelled.error()


def missing_labels(dataset: ScanDataset, consequence: str) -> UserError | None:
    """What is wrong with a split of which no scan has labels, None where one has.

    Args:
        consequence: the rest of a sentence that begins "no scan of the split has labels, ".
    """
    if any(dataset.files(index).labels is not None for index in range(len(dataset))):
        return None
    first = 0 if dataset.budget is None else int(dataset.budget.argmax())
    if dataset.load(first, cameras=False).labels is not None:  # a reader may have them elsewhere
        return None
    key, cure = "dataset", "Choose a split with labels"
    if "label_files" in type(dataset.config).model_fields:
        key, cure = "dataset.label_files", _label_files_cure(dataset)
    return UserError(
        f"no scan of the {dataset.split} split has labels, {consequence}",
        where=f"{dataset.root}, key '{key}'",
        cure=f"{cure} (only predicting? python evaluate.py predict FOLDER)",
    )


def _label_files_cure(dataset: ScanDataset) -> str:
    folder = dataset.files(0).points.parent
    there = len(find_files(folder, "*.label"))
    write = 'dataset: {label_files: "{stem}.label"}'
    if there:
        verb = "lies" if there == 1 else "lie"
        return f"{counted(there, 'file')} *.label {verb} in {folder}: write {write}"
    return f"Name the label files below the root, e.g. {write}"


def _has_class(scan: Scan, data: DataConfig) -> bool:
    if scan.labels is None:
        return False
    labelled = scan.labels != IGNORE
    if data.point_range is not None and labelled.any():
        low, high = np.array(data.point_range, np.float32).reshape(2, 3)
        labelled &= ((scan.xyz >= low) & (scan.xyz < high)).all(1)
    return bool(labelled.any())


def _raw_ids(dataset: ScanDataset, index: int) -> set[int]:
    """The ids of a scan's label file where it is a plain array; empty where it is not."""
    files = dataset.files(index)
    path = files.labels
    if path is None or path == files.points or path.suffix not in (".label", ".bin"):
        return set()
    ids = np.fromfile(path, dataset.label_dtype).astype(np.uint32)
    bits = dataset.config.model_dump().get("label_bits", 16)
    return set(np.unique(ids & ((1 << bits) - 1)).tolist())

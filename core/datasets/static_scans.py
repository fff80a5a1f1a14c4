"""``dataset.drop_static``: training scans in which nearly nothing moves are left out, but for one in ten.

The white list that MotionSeg3D, MotionBEV and KDMOS train with, by the rule that its rows follow: a scan with ten
moving points or more stays; of the others one in ten stays, counted from the last scan that did.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from loguru import logger

from core.datasets.base import ScanDataset
from core.datasets.files import read_labels
from core.datasets.sections import DropStatic
from core.errors import UserError, counted
from core.labels import LabelSpace

__all__ = ["DroppedScans", "drop_static", "kept_scans", "moving_counts"]

_THREADS = 8  # files are waited for
_MANY = 1000  # scans that take long enough to be told
_UNKNOWN = (
    -1
)  # moving points of a scan whose labels cannot be read; the training has its own way with it


@dataclass(frozen=True)
class DroppedScans:
    """What ``dataset.drop_static`` has left of a split.

    Attributes:
        tokens: of the scans that stay. moving: i64, their moving points; -1 = labels that cannot be read.
        static: how many of them stay with fewer moving points than ``rule.least``. dropped: tokens of the others.
    """

    rule: DropStatic
    tokens: tuple[str, ...]
    moving: np.ndarray
    dropped: tuple[str, ...]

    @property
    def static(self) -> int:
        """How many stay although nearly nothing moves in them."""
        return int(((self.moving >= 0) & (self.moving < self.rule.least)).sum())

    def told(self) -> str:
        """One line for a person."""
        total = len(self.tokens) + len(self.dropped)
        return (
            f"dataset.drop_static leaves {counted(len(self.tokens), 'scan')} of {total:,}: "
            f"{len(self.tokens) - self.static:,} with {counted(self.rule.least, 'moving point')} or more, "
            f"{self.static:,} others"
        )

    def text(self) -> str:
        """The list, a token per line, as ``dataset.labelled: {file: …}`` reads it."""
        lines = [f"# {self.told()}"]
        for token, moving in zip(self.tokens, self.moving.tolist()):
            points = "unknown" if moving == _UNKNOWN else moving
            lines.append(f"{token}  # moving points: {points}")
        return "\n".join(lines) + "\n"


def drop_static(dataset: ScanDataset, rows: np.ndarray, rule: DropStatic) -> DroppedScans:
    """Apply the rule to some scans of a split whose labels are known.

    Args:
        rows: i64, positions in ``dataset``, ascending.

    Raises:
        UserError: no class moves, or no scan is left.
    """
    if len(rows) > _MANY:
        logger.info("counting the moving points of {}", counted(len(rows), "scan"))
    moving = moving_counts(dataset, rows)
    scenes = [dataset.scene(row) for row in rows.tolist()]
    kept = kept_scans(moving, scenes, rule)
    tokens = np.array([dataset.token(row) for row in rows.tolist()])
    found = DroppedScans(rule, tuple(tokens[kept]), moving[kept], tuple(tokens[~kept]))
    logger.info("{}", found.told())
    return found


def kept_scans(moving: np.ndarray, scenes: Sequence[str], rule: DropStatic) -> np.ndarray:
    """Which scans stay.

    Args:
        moving: i64 [N], moving points of scans in their order; -1 = unknown, which stay. scenes: [N], of each.

    Returns:
        bool [N].
    """
    kept = np.zeros(len(moving), bool)
    scene = None
    since = 0  # scans since the last that stayed, this one included
    for row, points in enumerate(moving.tolist()):
        if scenes[row] != scene:
            scene = scenes[row]
            since = rule.every  # the first of a scene stays
        else:
            since += 1
        if points == _UNKNOWN or points >= rule.least or since >= rule.every:
            kept[row] = True
            since = 0
    return kept


def moving_counts(dataset: ScanDataset, rows: np.ndarray) -> np.ndarray:
    """Count the moving points of scans: of classes called "moving" or "moving-…".

    Returns:
        i64 [len(rows)]; -1 where labels cannot be read.

    Raises:
        UserError: no class is called so.
    """
    classes = _moving_classes(dataset.labels)
    with ThreadPoolExecutor(_THREADS) as pool:
        counts = pool.map(lambda row: _count(dataset, row, classes), rows.tolist())
        return np.fromiter(counts, np.int64, len(rows))


def _moving_classes(labels: LabelSpace) -> list[int]:
    found = [k for k, name in enumerate(labels.classes) if name.split("-")[0] == "moving"]
    if not found:
        raise UserError(
            f"no class of the label space '{labels.name}' moves: {', '.join(labels.classes[1:])}",
            where="key 'dataset.drop_static'",
            cure="Set dataset.labels: semantickitti_movable, or leave dataset.drop_static out",
        )
    return found


def _count(dataset: ScanDataset, row: int, classes: list[int]) -> int:
    try:
        return int(np.isin(_labels(dataset, row), classes).sum())
    except UserError as error:
        logger.warning("its moving points are not counted: {}", error)
        return _UNKNOWN


def _labels(dataset: ScanDataset, row: int) -> np.ndarray:
    """Train ids of a scan's own points; of label files that are plain arrays without reading the points."""
    path = dataset.files(row).labels
    if path is not None and path.suffix == ".label" and dataset.point_fields:
        bits = dataset.config.model_dump(include={"label_bits"}).get("label_bits", 16)
        raw = read_labels(path, dataset.label_dtype, dataset.num_points(row))
        return dataset.labels.to_train(raw & ((1 << bits) - 1), path)
    scan = dataset.read(row, cameras=False)
    if scan.labels is None:
        return np.empty(0, np.uint8)
    return scan.labels[scan.keyframe]

"""KITTI-Road as further sequences of SemanticKITTI, with labels of what moves alone (Sun et al., MotionSeg3D, 2022).

Twelve raw drives of KITTI in the benchmark's layout, sequences 30 to 41. Their labels know 9, which does not move, and
251, which does: what could move and rests has no id of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from pydantic import Field

from core.config import Section
from core.contracts import IGNORE
from core.errors import UserError
from core.labels import LabelSpace

__all__ = [
    "LEAKING",
    "ROAD_COUNTS",
    "ROAD_SEQUENCES",
    "RoadConfig",
    "check_leak",
    "check_road",
    "is_road",
]

LEAKING = "41"  # the same drive as sequence 20 of the hidden test split
ROAD_SEQUENCES: dict[str, tuple[str, ...]] = {
    "train": ("30", "31", "32", "33", "34", "40"),
    "val": ("35", "36", "37", "38", "39", LEAKING),
}
ROAD_COUNTS = {"train": 2905, "val": 2889}  # of all sequences above
_LEAKING_COUNT = 837
_ROAD = frozenset(sequence for names in ROAD_SEQUENCES.values() for sequence in names)
_RESTS, _MOVES = 9, 251  # raw ids of its labels
_CAR = 10  # raw id of what could move, in labels that tell it


class RoadConfig(Section):
    """``dataset.road:``, KITTI-Road's sequences beside the official ones."""

    splits: tuple[Literal["train", "val"], ...] = Field(
        (), description="official splits that they join: train 30 to 34 and 40; val 35 to 39"
    )
    static: Literal["ignore", "static"] = Field(
        "ignore",
        description="what their id 9, not moving, is in training where classes tell what could move from what could "
        "not; ignore = no label; static = static, parked cars too. In scores it is always static, so that what "
        "is wrongly found to move counts: read the IoU of moving alone",
    )
    leak: bool = Field(
        False,
        description="let the val split hold sequence 41, which is sequence 20 of the hidden test split: a score that "
        "chose weights by it must not be submitted",
    )

    def sequences(self, split: str) -> tuple[str, ...]:
        """Those that join an official split."""
        if split not in self.splits:
            return ()
        return tuple(name for name in ROAD_SEQUENCES[split] if self.leak or name != LEAKING)

    def count(self, split: str) -> int:
        """Scans that join an official split."""
        if split not in self.splits:
            return 0
        without = split == "val" and not self.leak
        return ROAD_COUNTS[split] - _LEAKING_COUNT * without

    def labels(self, raw: np.ndarray, train: np.ndarray, labels: LabelSpace) -> np.ndarray:
        """Labels of a scan of KITTI-Road for training.

        Args:
            raw: ids on disk [N]. train: u8 [N], as the label space has them.
        """
        known = labels.raw_to_train
        if self.static == "static" or known.get(_CAR) == known.get(_RESTS):
            return train
        return np.where(raw == _RESTS, np.uint8(IGNORE), train)


def is_road(sequence: str) -> bool:
    """Whether a sequence is one of KITTI-Road's."""
    return sequence in _ROAD


def check_road(sequences: Iterable[str], labels: LabelSpace) -> None:
    """Refuse classes that labels of KITTI-Road cannot tell.

    Raises:
        UserError: a sequence is KITTI-Road's, and the label space does not know its ids.
    """
    road = [name for name in sequences if is_road(name)]
    lacking = [raw for raw in (_RESTS, _MOVES) if raw not in labels.raw_to_train]
    if road and lacking:
        raise UserError(
            f"labels of KITTI-Road (sequences {', '.join(road)}) tell what moves (251) from what does not (9); "
            f"the label space '{labels.name}' does not know {' and '.join(map(str, lacking))}",
            where="key 'dataset.labels'",
            cure="Set dataset.labels: semantickitti_movable or semantickitti_mos, or leave these sequences out",
        )


def check_leak(sequences: Iterable[str], split: str, allowed: bool) -> str:
    """Refuse to learn from, or unasked to choose weights by, what the hidden test split holds.

    Args:
        allowed: ``dataset.road.leak``.

    Returns:
        a sentence about what the split holds of it; empty where it holds nothing.

    Raises:
        UserError: it does.
    """
    if split == "test" or LEAKING not in sequences:
        return ""
    what = f"sequence {LEAKING} of KITTI-Road is the drive of sequence 20, whose labels the benchmark hides"
    if split == "train":
        raise UserError(
            f"{what}: it is never trained on",
            where="key 'dataset.split.train'",
            cure=f"Leave {LEAKING} out",
        )
    if not allowed:
        raise UserError(
            f"{what}: weights that were chosen by it are not fit for a submission",
            where="key 'dataset.split.val'",
            cure=f"Leave {LEAKING} out, or write dataset.road: {{leak: true}} if nothing will be submitted",
        )
    return f"the val split holds {what}"

"""Waymo's metric of 3-D semantic segmentation: per cell of TOP's range images, both returns in one confusion matrix.

As compute_segmentation_metrics_main.cc of the Waymo Open Dataset: cells of class 0 in the truth are outside; class 0
predicted elsewhere is a miss; a frame without a prediction is missed in every cell; a class that is neither there nor
predicted counts 1. That last rule flatters a network on few frames, so the mean over the classes that the truth holds
stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.datasets.waymo.frame import NUM_CLASSES
from core.datasets.waymo.scoring.frame_lists import FrameFile, class_image, find_lists
from core.decode import decoding
from core.errors import UserError, counted
from core.metrics import Absent, Confusion

__all__ = ["CellScore", "score_files"]

_RETURNS = 2


@dataclass
class CellScore:
    """Confusion of cells, by return.

    Attributes:
        by_return: of the first and of the second return, 23 classes with "undefined".
        frames: scored ones. missing: those among them without a prediction. unlabelled: those that the truth has no
            labels for. unasked: predicted ones that the truth does not hold. Both of the latter count nowhere.
    """

    by_return: list[Confusion] = field(
        default_factory=lambda: [Confusion(NUM_CLASSES) for _ in range(_RETURNS)]
    )
    frames: int = 0
    missing: int = 0
    unlabelled: int = 0
    unasked: int = 0

    @property
    def overall(self) -> Confusion:
        """Of both returns."""
        first, second = self.by_return
        return Confusion(NUM_CLASSES, first.counts + second.counts)

    @property
    def first(self) -> Confusion:
        """Of the first return alone."""
        return self.by_return[0]

    def add(self, truth: Sequence[np.ndarray], prediction: Sequence[np.ndarray] | None) -> None:
        """Add a frame.

        Args:
            truth, prediction: classes i32 [H, W], of the first and the second return; None = nothing was predicted.

        Raises:
            ValueError: the two have other returns or shapes.
        """
        shapes = [image.shape for image in truth]
        if prediction is None:
            prediction = [np.zeros_like(image) for image in truth]
            self.missing += 1
        found = [image.shape for image in prediction]
        if found != shapes:
            raise ValueError(f"its range images are {found}; the truth's are {shapes}")
        self.frames += 1
        for confusion, own, true in zip(self.by_return, prediction, truth):
            confusion.update(torch.from_numpy(own.ravel()), torch.from_numpy(true.ravel()))

    def told(self, classes: Sequence[str]) -> str:
        """The score for a person, in percent: the means, then each class, of both returns and of the first."""
        overall, first = self.overall, self.first
        lines = [f"{'':<22}{'both returns':>13}{'first return':>14}"]
        means: tuple[tuple[str, Absent], ...] = (
            ("mIoU, Waymo's tool", "nan_one"),
            ("mIoU, classes present", "skip"),
        )
        for name, absent in means:
            lines.append(_row(name, overall.miou(absent), first.miou(absent)))
        ious = zip(classes, overall.iou().tolist(), first.iou().tolist())
        lines += [_row(*row) for row in list(ious)[1:]]
        return "\n".join([*lines, self._counts()])

    def _counts(self) -> str:
        counts = f"{counted(self.frames, 'frame')} scored"
        if self.missing:
            counts += f", {self.missing:,} of them without a prediction: all their cells are missed"
        if self.unlabelled:
            counts += f"; {self.unlabelled:,} without labels left out"
        if self.unasked:
            counts += f"; {counted(self.unasked, 'prediction')} of frames that the truth lacks"
        return counts

    def to_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """Plain values: the means in percent, of both returns and of the first, and the counts they come from.

        Args:
            classes: names by id, with "undefined".
        """
        overall, first = self.overall, self.first
        ious = dict(zip(classes[1:], overall.iou().tolist()[1:]))
        return {
            "frames": self.frames,
            "frames_without_prediction": self.missing,
            "miou_official": 100 * overall.miou("nan_one"),
            "miou": 100 * overall.miou(),
            "classes_scored": int(overall.present().sum()),
            "first_return": {
                "miou_official": 100 * first.miou("nan_one"),
                "miou": 100 * first.miou(),
            },
            "iou": {name: 100 * iou for name, iou in ious.items()},
            "confusion": overall.counts.tolist(),
            "confusion_first_return": first.counts.tolist(),
        }


def _row(name: str, both: float, first: float) -> str:
    """Shares as a person reads them, in percent; a class that is nowhere has none."""
    shown = ["-" if math.isnan(value) else f"{100 * value:.4f}" for value in (both, first)]
    return f"{name:<22}{shown[0]:>13}{shown[1]:>14}"


def score_files(truth: Path, predictions: Path) -> CellScore:
    """Score predicted frames against true ones, one frame in memory at a time.

    Args:
        truth, predictions: a SegmentationFrameList or a submission each, or a folder of ``*.bin``. Matrices are
            [H, W, 2], instance and class, or [H, W], classes alone; unlike Waymo's tool, which flattens them, this one
            never takes an instance id for a class.

    Raises:
        UserError: a file is damaged, a frame is there twice, does not fit its truth, or none of the truth is predicted.
    """
    predicted = _places(find_lists(predictions))
    score = CellScore()
    asked = _places(find_lists(truth))
    for token, (file, index) in asked.items():
        true = _classes(file, index)
        if not true:
            score.unlabelled += 1
            continue
        place = predicted.get(token)
        own = [] if place is None else _classes(*place)
        with decoding(predictions, f"prediction of frame {token}"):
            score.add(true, own or None)
    score.unasked = len(predicted.keys() - asked.keys())
    if score.frames == 0:
        raise UserError("no frame of the ground truth has labels", where=str(truth))
    if score.frames == score.missing:
        raise UserError(
            f"not one of {counted(score.frames, 'labelled frame')} is predicted",
            where=str(predictions),
            cure="Give the ground truth first, then predictions of the same split",
        )
    return score


def _places(lists: Iterable[FrameFile]) -> dict[str, tuple[FrameFile, int]]:
    """Where each frame lies: a submission, and a plain list of the same frames beside it, count once.

    Raises:
        UserError: a frame is in one kind of file twice.
    """
    places: dict[bool, dict[str, tuple[FrameFile, int]]] = {True: {}, False: {}}
    for file in lists:
        known = places[file.is_submission]
        for index, token in enumerate(file.tokens):
            if token in known:
                other = known[token][0].path.name
                raise UserError(
                    f"frame {token} is there twice, in {other} and in {file.path.name}",
                    where=str(file.path),
                    cure="Waymo's tool would take the later one without a word; leave one out",
                )
            known[token] = (file, index)
    return places[False] or places[True]


def _classes(file: FrameFile, index: int) -> list[np.ndarray]:
    images = file.images(index)
    with decoding(file.path, f"frame {file.tokens[index]}"):
        return [class_image(image) for image in images]

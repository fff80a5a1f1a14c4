"""What decides which weights of a training are its best: ``eval.select``, or what the method says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.config.explain import did_you_mean
from core.errors import UserError

__all__ = ["IOU", "LAST", "LAST_LOSS", "LOSS", "MIOU", "Score"]

IOU = "iou/val/vox"  # over points, whatever its name says: scalars.jsonl of all runs have it

_KEY = "eval.select"


@dataclass(frozen=True)
class Score:
    """How checkpoints of one training are ranked.

    Attributes:
        kind: "iou" = IoU on the points of the val split, "loss" = the method's own losses there,
            "none" = nothing is measured and the last weights count as the best.
        classes: "iou" only: the classes whose IoUs are averaged; empty = all that are present.
        last: it is measured, and the last weights count as the best all the same.
    """

    kind: Literal["iou", "loss", "none"]
    classes: tuple[str, ...] = ()
    last: bool = False

    @property
    def decides(self) -> bool:
        """Whether the best weights are others than the last ones."""
        return self.kind != "none" and not self.last

    @property
    def scalar(self) -> str:
        """Name of the deciding number in ``scalars.jsonl``; empty for "none"."""
        if self.kind == "none":
            return ""
        if self.kind == "loss":
            return "val_loss/total"
        if not self.classes:
            return IOU
        if len(self.classes) == 1:
            return f"{IOU}/{self.classes[0]}"
        return "iou/val/selected"

    @property
    def title(self) -> str:
        """What a person reads; empty for "none"."""
        if self.kind == "none":
            return ""
        if self.kind == "loss":
            return "val loss"
        if not self.classes:
            return "val mIoU"
        return f"val IoU of {', '.join(self.classes)}"

    def improves(self, value: float, best: float | None) -> bool:
        """Whether ``value`` is better than the best so far; any number is better than none, and NaN is no number."""
        if math.isnan(value):
            return False
        if best is None or math.isnan(best):
            return True
        return value < best if self.kind == "loss" else value > best

    @classmethod
    def parse(cls, select: str | Sequence[str], classes: Sequence[str]) -> Score:
        """Read ``eval.select``: ``miou``, ``loss``, ``last``, ``none``, or ``iou/<class>`` and lists of those.

        Args:
            classes: names by train id; ``classes[0]`` is "ignore".

        Raises:
            UserError: another word, or a class that the data set does not have.
        """
        words = {"miou": MIOU, "loss": LOSS, "last": LAST_LOSS, "none": LAST}
        if isinstance(select, str) and select in words:
            return words[select]
        chosen = [select] if isinstance(select, str) else list(select)
        if not chosen:
            raise UserError("the list is empty", where=_KEY, cure="Name classes: [iou/car]")
        for item in chosen:
            _check(item, list(words), classes)
        return cls("iou", tuple(item.removeprefix("iou/") for item in chosen))


def _check(item: str, words: list[str], classes: Sequence[str]) -> None:
    known = [f"iou/{name}" for name in classes[1:]]
    if item not in known:
        raise UserError(
            f"'{item}' selects nothing",
            where=f"key '{_KEY}'",
            cure=did_you_mean(item, [*words, *known], "Choose of"),
        )


MIOU = Score("iou")
LOSS = Score("loss")
LAST = Score("none")
LAST_LOSS = Score("loss", last=True)

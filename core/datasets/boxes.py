"""Boxes about objects, one JSON file per scan: a list of ``{label, center, lwh, heading}``, beside the scans.

Places are in the scanner's frame, m; ``lwh`` is length, width and height; ``heading`` (rad) is that of the length,
counter-clockwise from x. ``points``, where it is there, is how many points lie in the box.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from core.contracts.boxes import Boxes
from core.decode import read_json
from core.errors import UserError
from core.geometry import FARTHEST

__all__ = ["read_boxes"]

_CURE = "A file of boxes is a list of {label, center: [x, y, z], lwh: [length, width, height], heading}, in m and rad"
_Triple = tuple[float, float, float]


@dataclass(frozen=True)
class _Box:
    """As the file has it; other keys are passed over."""

    label: str
    center: _Triple
    lwh: _Triple
    heading: float
    points: Annotated[int, Field(ge=-1, lt=1 << 32)] = -1


def read_boxes(path: Path) -> Boxes:
    """Read the boxes of a scan.

    Raises:
        UserError: the file is missing or no such list, a number is not finite or far too large, or a side is no length.
    """
    found = read_json(path, list[_Box], cure=_CURE)
    rows = [(*box.center, *box.lwh, box.heading) for box in found]
    values = np.array(rows, np.float64).reshape(-1, 7)
    sound = (np.abs(values) <= FARTHEST).all(1) & (values[:, 3:6] > 0).all(1)
    if not sound.all():
        row = int(np.argmin(sound))
        raise UserError(
            f"box {row} ('{found[row].label}') has sides that are no lengths, or numbers that no place has",
            where=str(path),
            cure=_CURE,
        )
    return Boxes(
        centre=values[:, :3],
        size=values[:, 3:6],
        heading=values[:, 6],
        names=tuple(box.label for box in found),
        points=np.array([box.points for box in found], np.int64),
    )

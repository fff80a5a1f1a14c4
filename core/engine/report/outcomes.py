"""What became of each point where moving objects were sought: a colour for each case, and a scan from above."""

from __future__ import annotations

import numpy as np

from core.contracts import IGNORE
from core.engine.report.pictures import birds_eye, side_by_side

__all__ = ["FALSE", "HIT", "LEGEND", "MISSED", "outcomes", "scan_from_above", "titled", "widened"]

UNCOUNTED, REST, HIT, FALSE, MISSED = range(5)
# Green, red and blue are those of the field's viewers (KDMOS).
COLORS = np.array(
    [(52, 57, 66), (116, 124, 137), (62, 214, 110), (255, 74, 66), (92, 154, 255)], np.uint8
)
NAMES = ("no label", "at rest", "moving and found", "found, but at rest", "moving and missed")
LEGEND = [(NAMES[k], COLORS[k]) for k in (HIT, FALSE, MISSED, REST, UNCOUNTED)]
SIZE = 900  # px per side
_TYPICAL = 110_000  # points: dots have one size in all scans of a sequence


def outcomes(truth: np.ndarray, predicted: np.ndarray, moving: int) -> np.ndarray:
    """Name the case of each point, as the official tool counts it: what has no label does not count.

    Args:
        truth, predicted: train ids [N]. moving: that of what moves.

    Returns:
        u8 [N]: ``UNCOUNTED``, ``REST`` (true negative), ``HIT`` (true positive), ``FALSE`` or ``MISSED``.
    """
    moves, found = truth == moving, predicted == moving
    outcome = np.full(len(truth), REST, np.uint8)
    outcome[moves & found] = HIT
    outcome[~moves & found] = FALSE
    outcome[moves & ~found] = MISSED
    outcome[truth == IGNORE] = UNCOUNTED
    return outcome


def scan_from_above(points: np.ndarray, outcome: np.ndarray, extent: float) -> np.ndarray:
    """A scan in the colours of its outcomes; errors cover what is right, and that what rests.

    What moves or was found is three pixels wide: far objects are few points.

    Args:
        points: f32 [N, 3] m. outcome: u8 [N], see :func:`outcomes`. extent: m from the sensor to each edge.

    Returns:
        u8 [900, 900, 3].
    """
    points, rows = widened(points, outcome >= HIT, 2 * extent / SIZE)
    outcome = outcome[rows]
    return birds_eye(points, COLORS[outcome], extent, SIZE, priority=outcome, like=_TYPICAL)


def widened(points: np.ndarray, shown: np.ndarray, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """The points, and eight copies of some of them, a pixel away in x and y.

    Args:
        points: f32 [N, 3] m. shown: bool [N], those that are copied. pixel: m.

    Returns:
        f32 [M, 3] m, and i64 [M], the row that each was.
    """
    copied = np.flatnonzero(shown)
    parts, rows = [points], [np.arange(len(points))]
    for x in (-pixel, 0.0, pixel):
        for y in (-pixel, 0.0, pixel):
            if x or y:
                parts.append(points[copied] + np.array([x, y, 0], points.dtype))
                rows.append(copied)
    return np.concatenate(parts), np.concatenate(rows)


def titled(picture: np.ndarray, title: str, note: str) -> np.ndarray:
    """A picture of :func:`scan_from_above` with a line above and one below, and its legend; u8 RGB."""
    return side_by_side([(title, picture)], LEGEND, note)

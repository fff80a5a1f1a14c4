"""Objects of a scan as boxes that stand upright."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Boxes", "in_box"]


def in_box(offset: np.ndarray, size: np.ndarray, heading: float) -> np.ndarray:
    """Bool [N]: which points lie in an upright box, its faces included.

    Args:
        offset: f64 [N, 3] m, from the centre. size: f64 [3] m, along the heading, across it, up.
        heading: rad, counter-clockwise from x, seen from above.
    """
    x, y, z = offset.T
    along = np.cos(heading) * x + np.sin(heading) * y
    across = np.cos(heading) * y - np.sin(heading) * x
    return (
        (np.abs(along) <= size[0] / 2)
        & (np.abs(across) <= size[1] / 2)
        & (np.abs(z) <= size[2] / 2)
    )


@dataclass(frozen=True)
class Boxes:
    """Boxes about the objects of a scan, in a frame whose z points up.

    Attributes:
        centre: f64 [B, 3] m, the middle of each. size: f64 [B, 3] m: length, width, height.
        heading: f64 [B] rad, of the length: counter-clockwise from x, seen from above.
        names: what each object is, as the data set calls it.
        upright_from_scan: f64 [4, 4], from the scan's frame into that of the boxes.
        points: i64 [B] points in each as the data set has counted them, -1 = it has not; empty where it never does.
    """

    centre: np.ndarray
    size: np.ndarray
    heading: np.ndarray
    names: tuple[str, ...]
    upright_from_scan: np.ndarray = field(default_factory=lambda: np.eye(4))
    points: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.names)

    def counts(self, xyz: np.ndarray) -> np.ndarray:
        """Points in each box, i64 [B].

        Args:
            xyz: [N, 3] m, in the frame of the boxes.
        """
        found = np.zeros(len(self), np.int64)
        for row, centre in enumerate(self.centre):
            reach = np.linalg.norm(self.size[row]) / 2
            near = np.abs(xyz[:, 0] - centre[0]) <= reach
            offset = xyz[near].astype(np.float64) - centre
            found[row] = np.count_nonzero(in_box(offset, self.size[row], self.heading[row]))
        return found

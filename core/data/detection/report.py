"""What scans and boxes were written, for a person and for the settings of a detector."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from core.errors import counted

__all__ = ["DetectionReport"]


@dataclass
class DetectionReport:
    """What one or several scans hold.

    Attributes:
        scans: with a box. empty: without one, which no list names. found: whose files were there.
        boxes: by written name. extents: sums of length, width, height by it, f64 [3] m.
        compared, differing: boxes whose points the data set has counted, and those that hold another number here.
        left_out: names that no class has, and their boxes.
    """

    scans: int = 0
    empty: int = 0
    found: int = 0
    boxes: Counter[str] = field(default_factory=Counter)
    extents: dict[str, np.ndarray] = field(default_factory=dict)
    compared: int = 0
    differing: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def add_box(self, name: str, size: np.ndarray) -> None:
        """Take in a box of f64 [3] length, width, height m."""
        self.boxes[name] += 1
        self.extents[name] = self.extents.get(name, np.zeros(3)) + size

    def add(self, other: DetectionReport) -> None:
        """Take in the report of further scans."""
        self.scans += other.scans
        self.empty += other.empty
        self.found += other.found
        self.compared += other.compared
        self.differing += other.differing
        self.boxes.update(other.boxes)
        self.left_out.update(other.left_out)
        for name, extent in other.extents.items():
            self.extents[name] = self.extents.get(name, np.zeros(3)) + extent

    def mean_size(self, name: str) -> np.ndarray:
        """F64 [3] m, the mean length, width and height of a class: the anchor of a detector."""
        return self.extents[name] / self.boxes[name]

    def text(self) -> str:
        """Lines for a person."""
        there = f", {self.found:,} of which were there" if self.found else ""
        lines = [f"{counted(self.scans, 'scan')} with {self.boxes.total():,} boxes{there}"]
        for name, count in self.boxes.most_common():
            size = " x ".join(f"{edge:.2f}" for edge in self.mean_size(name))
            lines.append(f"  {name:<36} {count:>8,}   mean {size} m")
        if self.empty:
            lines.append(
                f"{counted(self.empty, 'scan')} without a box, which no list names: OpenPCDet stops at such a file"
            )
        if self.left_out:
            names = ", ".join(f"{name} ({count:,})" for name, count in self.left_out.most_common())
            lines.append(f"of no class and left out: {names}")
        if self.differing:
            lines.append(
                f"{self.differing:,} of {self.compared:,} boxes hold another number of points than their file says"
            )
        return "\n".join(lines)

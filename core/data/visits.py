"""Cells shown by another of their points, for answers that are a mean over visits (spec of KDMOS, 6.2 and 6.3)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from core.contracts import Grouping

__all__ = ["visited"]


def visited(grouping: Grouping, sweep: np.ndarray, visit: int) -> Grouping:
    """The same cells, each represented by its point number ``visit`` modulo how many it has.

    Only points of the representative's own scan take turns: where the current scan has been, older ones stay silent.

    Args:
        grouping: its representatives are points number 0.
        sweep: integer [N], the scan of each point.
        visit: counted from 0.
    """
    if visit == 0:
        return grouping
    rows = np.flatnonzero(grouping.of_point >= 0)
    cell = grouping.of_point[rows]
    of_its_scan = sweep[rows] == sweep[grouping.point[cell]]
    rows, cell = rows[of_its_scan], cell[of_its_scan]
    order = np.lexsort((rows != grouping.point[cell], cell))
    counts = np.bincount(cell, minlength=len(grouping))
    first = np.cumsum(counts) - counts
    return replace(grouping, point=rows[order[first + visit % counts]])

"""The pieces of a division that hang together, of sizes that are neither too small nor too large."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["connect"]


def connect(labels: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    """Number the pieces that hang together (4 neighbours) anew, i32 [H, W].

    Args:
        labels: i32 [H, W].
        smallest: px; a smaller piece goes to a neighbour that has its number already, of several the last one met.
        largest: px; what is left of a piece of so many is a piece of its own.
    """
    runs = np.empty((_count_runs(labels), 3), np.int32)
    _find_runs(labels, runs)
    pieces = _join_runs(labels, runs)
    found = np.empty_like(labels)
    _number(labels, runs, pieces, smallest, largest, found)
    return found


@numba.njit("i8(i4[:,::1])", cache=True, nogil=True)
def _count_runs(labels: np.ndarray) -> int:
    height, width = labels.shape
    count = height
    for y in range(height):
        row = labels[y]
        for x in range(1, width):
            count += row[x] != row[x - 1]
    return count


@numba.njit("void(i4[:,::1], i4[:,::1])", cache=True, nogil=True)
def _find_runs(labels: np.ndarray, runs: np.ndarray) -> None:
    """Row, first column and the one behind the last of pixels of a row with one label."""
    height, width = labels.shape
    count = 0
    for y in range(height):
        row = labels[y]
        first = 0
        for x in range(1, width + 1):
            if x < width and row[x] == row[first]:
                continue
            runs[count, 0] = y
            runs[count, 1] = first
            runs[count, 2] = x
            count += 1
            first = x


@numba.njit("i4(i4[::1], i4)", cache=True, nogil=True)
def _root(parents: np.ndarray, run: int) -> int:
    while parents[run] != run:
        parents[run] = parents[parents[run]]
        run = parents[run]
    return run


@numba.njit("i4[::1](i4[:,::1], i4[:,::1])", cache=True, nogil=True)
def _join_runs(labels: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """The first run of the piece that each run is of, i32 [runs]: those of one label that touch are joined."""
    parents = np.arange(len(runs)).astype(np.int32)
    above = 0
    for run in range(len(runs)):
        y, first, end = runs[run]
        if y == 0:
            continue
        while runs[above, 0] < y - 1 or runs[above, 2] <= first:
            above += 1
        other = above
        while runs[other, 0] == y - 1 and runs[other, 1] < end:
            if labels[y, first] == labels[y - 1, runs[other, 1]]:
                one, two = _root(parents, run), _root(parents, other)
                parents[max(one, two)] = min(one, two)
            other += 1
    for run in range(len(runs)):
        parents[run] = parents[parents[run]]
    return parents


@numba.njit(
    "Tuple((i8, i4))(i4[:,::1], i4[:,::1], i8[:,::1], i8, i8, i4, i8)", cache=True, nogil=True
)
def _flood(
    labels: np.ndarray,
    found: np.ndarray,
    queue: np.ndarray,
    y: int,
    x: int,
    new: np.int32,
    largest: int,
) -> tuple[int, np.int32]:
    """Give the piece that holds a pixel the number ``new``, breadth first; its pixels and a neighbour's number."""
    height, width = labels.shape
    neighbour = np.int32(0)
    found[y, x] = new
    queue[0, 0] = y
    queue[0, 1] = x
    size = 1
    visited = 0
    while visited < size < largest:
        for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            v = queue[visited, 0] + dy
            u = queue[visited, 1] + dx
            if not (0 <= v < height and 0 <= u < width):
                continue
            if labels[v, u] == labels[y, x] and found[v, u] == -1:
                found[v, u] = new
                queue[size, 0] = v
                queue[size, 1] = u
                size += 1
                if size >= largest:
                    break
            elif found[v, u] >= 0 and found[v, u] != new:
                neighbour = found[v, u]
        visited += 1
    return size, neighbour


@numba.njit("void(i4[:,::1], i4[::1], i8, i4, i4[:,::1])", cache=True, nogil=True)
def _fill(
    runs: np.ndarray, following: np.ndarray, run: int, new: np.int32, found: np.ndarray
) -> None:
    """Give all runs of a piece its number."""
    while run >= 0:
        found[runs[run, 0], runs[run, 1] : runs[run, 2]] = new
        run = following[run]


@numba.njit("void(i4[:,::1], i4[:,::1], i4[::1], i8, i8, i4[:,::1])", cache=True, nogil=True)
def _number(
    labels: np.ndarray,
    runs: np.ndarray,
    pieces: np.ndarray,
    smallest: int,
    largest: int,
    found: np.ndarray,
) -> None:
    """Number pieces in the order of their first pixels; those of other sizes are walked through pixel by pixel."""
    sizes = np.zeros(len(runs), np.int64)
    following = np.full(len(runs), np.int32(-1))
    last = np.empty(len(runs), np.int32)
    for run in range(len(runs)):
        piece = pieces[run]
        sizes[piece] += runs[run, 2] - runs[run, 1]
        if piece != run:
            following[last[piece]] = run
        last[piece] = run
    queue = np.empty((max(largest, 1), 2), np.int64)
    found[:] = -1
    new = np.int32(0)
    for run in range(len(runs)):
        size = sizes[pieces[run]]
        y, first, end = runs[run]
        if smallest <= size < largest:
            if pieces[run] == run:
                _fill(runs, following, run, new, found)
                new += np.int32(1)
            continue
        for x in range(first, end):
            if found[y, x] >= 0:
                continue
            size, neighbour = _flood(labels, found, queue, y, x, new, largest)
            if size >= smallest:
                new += np.int32(1)
                continue
            for i in range(size):
                found[queue[i, 0], queue[i, 1]] = neighbour

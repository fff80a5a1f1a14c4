"""Tables of poses and times: every line and every rotation is proven before points are moved by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.decode import read_text
from core.errors import UserError
from core.geometry import FARTHEST, first_fault

__all__ = [
    "check_poses",
    "check_quaternions",
    "check_times",
    "parse_poses",
    "read_poses",
    "read_table",
    "read_times",
]

_NOT_UNIT = 5e-3  # of a quaternion's length
_POSE = (12, 16)  # numbers in a line


def read_table(path: Path, columns: Sequence[int], cure: str | None = None) -> np.ndarray:
    """Read a table of numbers, one row per line.

    Args:
        columns: how many numbers a line may hold; all lines hold as many. cure: what to do about a damaged file.

    Returns:
        f64 [lines, columns], finite.

    Raises:
        UserError: the file is missing or empty, or a line is empty, holds another number of values, or something else
            than finite numbers; names the line.
    """
    rows = _parse_rows(read_text(path, cure=cure).rstrip().splitlines(), columns, path, cure)
    if not len(rows):
        allowed = " or ".join(str(count) for count in columns)
        raise UserError(
            f"the file is empty; expected {allowed} numbers per line", where=str(path), cure=cure
        )
    return rows


def _parse_rows(
    lines: Sequence[str], columns: Sequence[int], path: Path, cure: str | None, first: int = 1
) -> np.ndarray:
    """Lines of a table as f64 [lines, columns]; ``first`` is the number of the first one."""
    allowed = " or ".join(str(count) for count in columns)
    rows: list[list[float]] = []
    for number, line in enumerate(lines, first):
        row = _numbers(line.split())
        width = len(rows[0]) if rows else len(row)
        if len(row) not in columns or len(row) != width or not np.isfinite(row).all():
            what = f"line {number} holds {_shown(line)}; expected {allowed} finite numbers in each line"
            raise UserError(what, where=str(path), cure=cure)
        rows.append(row)
    return np.array(rows, np.float64)


def read_poses(path: Path, cure: str | None = None) -> np.ndarray:
    """Read a text file of poses, 12 numbers (the upper three rows) or 16 per line.

    Returns:
        f64 [lines, 4, 4].

    Raises:
        UserError: see :func:`read_table` and :func:`check_poses`.
    """
    return _as_poses(read_table(path, _POSE, cure), path, cure)


def parse_poses(
    lines: Sequence[str], path: Path, cure: str | None = None, *, first: int = 1
) -> np.ndarray:
    """Some lines of a text file of poses, as :func:`read_poses` reads all of them.

    Args:
        path: the file, for errors. first: number of the first line.

    Returns:
        f64 [lines, 4, 4].

    Raises:
        UserError: see :func:`read_table` and :func:`check_poses`.
    """
    if not lines:
        return np.empty((0, 4, 4))
    return _as_poses(_parse_rows(lines, _POSE, path, cure, first), path, cure, first)


def _as_poses(values: np.ndarray, path: Path, cure: str | None, first: int = 1) -> np.ndarray:
    """Rows of 12 or 16 numbers as f64 [F, 4, 4], proven."""
    poses = np.tile(np.eye(4), (len(values), 1, 1))
    poses.reshape(len(values), 16)[:, : values.shape[1]] = values
    check_poses(poses, path, "line {}", cure, first=first)
    return poses


def read_times(path: Path, cure: str | None = None) -> np.ndarray:
    """Read a text file of one time per line, f64 [lines] s.

    Raises:
        UserError: see :func:`read_table` and :func:`check_times`.
    """
    times = read_table(path, (1,), cure)[:, 0]
    check_times(times, path, "line {}", cure, first=1)
    return times


def check_poses(
    poses: np.ndarray,
    path: Path,
    place: str,
    cure: str | None = None,
    *,
    first: int = 0,
    farthest: float = FARTHEST,
) -> None:
    """Prove that poses f64 [F, 4, 4] are rigid transforms, see :func:`core.geometry.first_fault`.

    Args:
        path: the file they come from. place: where in it one stands, with {} for its number. first: the first number.
        farthest: m, the longest translation.

    Raises:
        UserError: one is not; names it.
    """
    fault = first_fault(poses, farthest)
    if fault is None:
        return
    row, what = fault
    cure = cure or "Write the file again; rotations are orthonormal, translations are metres"
    raise UserError(f"the pose in {place.format(row + first)} {what}", where=str(path), cure=cure)


def check_quaternions(quaternions: np.ndarray, path: Path, cure: str | None = None) -> None:
    """Prove that quaternions f64 [F, 4] are rotations: finite and of length 1.

    Raises:
        UserError: one is not; names its row.
    """
    with np.errstate(all="ignore"):
        length = np.linalg.norm(quaternions, axis=-1)
        wrong = np.flatnonzero(~(np.abs(length - 1) <= _NOT_UNIT))
    if len(wrong):
        raise UserError(
            f"the quaternion in row {wrong[0]} has length {length[wrong[0]]:.4g}, so it is no rotation",
            where=str(path),
            cure=cure,
        )


def check_times(
    times: np.ndarray, path: Path, place: str, cure: str | None = None, *, first: int = 0
) -> None:
    """Prove that times f64 [F] s are finite and never go back; two may be equal.

    Raises:
        UserError: one does; names it.
    """
    wrong = ~np.isfinite(times)
    wrong[1:] |= times[1:] < times[:-1]
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"the time in {place.format(row + first)} is {times[row]:g}; expected finite seconds that never go back",
            where=str(path),
            cure=cure,
        )


def _numbers(words: list[str]) -> list[float]:
    """The values of words; NaN for what is no number."""
    values = []
    for word in words:
        try:
            values.append(float("nan" if "_" in word else word))
        except ValueError:
            values.append(float("nan"))
    return values


def _shown(line: str) -> str:
    words = line.split()
    if not words:
        return "nothing"
    shown = ascii(line.strip())
    if len(shown) > 40:
        shown = f"{shown[:37]}..."
    return f"{len(words)} values, {shown}"

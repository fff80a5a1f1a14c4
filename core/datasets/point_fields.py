"""Whether a folder's scans have as many values per point as is said, seen before anything is made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.datasets.folder import FolderDataset
from core.errors import UserError

__all__ = ["check_point_fields", "typical_step"]

# Values per point that are tried besides the expected one: x, y, z, intensity and up to six more.
_CANDIDATES = range(4, 11)
# A scanner writes its points in order: read rightly, a point and the next are less than 0.03 of the scan's extent apart
# in real scans, and about 0.5 where columns are misread. So another number fits where its step is a fifth or less.
_CLEARLY_SMALLER = 0.2
_FEW_POINTS = 100  # fewer say nothing about their order
_UNKNOWN_STEP = 1.0


def check_point_fields(scans: FolderDataset, fields: int) -> None:
    """Refuse ``.bin`` scans of another number of values per point, by the files' sizes or by the first scan.

    Args:
        fields: float32 values per point as they are expected.

    Raises:
        UserError: a file's size is no multiple, or another number fits the first scan far better.
    """
    paths = [scans.files(index).points for index in range(len(scans))]
    for path in paths:
        if path.stat().st_size % (4 * fields):
            steps = _steps(path, fields)
            raise _misread(path, fields, steps, f"its size is no multiple of {4 * fields} bytes")
    steps = _steps(paths[0], fields)
    if not steps:
        return
    if min(steps.values()) < _CLEARLY_SMALLER * steps.get(fields, 0):
        raise _misread(paths[0], fields, steps, "read so, neighbours lie anywhere")


def _steps(path: Path, fields: int) -> dict[int, float]:
    """The typical step by number of values per point, for all numbers that the file's size allows."""
    values = np.fromfile(path, "<f4")
    steps = {}
    for count in {*_CANDIDATES, fields}:
        if len(values) % count == 0:
            steps[count] = typical_step(values, count)
    return steps


def _misread(path: Path, fields: int, steps: dict[int, float], fault: str) -> UserError:
    best = min(steps, key=lambda count: steps[count], default=fields)
    fit = ""
    if best != fields:
        fit = f"; {best} would fit"
    return UserError(
        f"this scan does not have {fields} float32 values per point: {fault}{fit}",
        where=str(path),
        cure="Say how many values each point has with --point-fields N (x, y, z, intensity, …), or copy the file again",
    )


def typical_step(values: np.ndarray, fields: int) -> float:
    """Typical distance of one point to the next, as a share of the scan's extent.

    Args:
        values: f32 [N * fields], the file as it lies on disk.

    Returns:
        the mean over x, y, z; 1 where there are too few points or values that are not finite.
    """
    points = values.reshape(-1, fields)[:, :3].astype(np.float64)
    if len(points) < _FEW_POINTS or not np.isfinite(points).all():
        return _UNKNOWN_STEP
    steps = np.median(np.abs(np.diff(points, axis=0)), 0)
    extent = points.std(0) + 1e-6  # m; a flat scan has none along z
    return float(np.mean(steps / extent))

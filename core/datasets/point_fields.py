"""How many float32 values a point has in a file that does not say it: measured for each file, not taken on trust."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.errors import UserError

__all__ = ["check_point_fields", "typical_step"]

# A scanner writes its points in order: read rightly, a point and the next are less than 0.05 of the scan's extent apart
# in real scans, and 0.2 to 0.5 where columns are misread. So another number fits where its step is a fifth or less.
_CANDIDATES = range(3, 11)
_ORDERED = 0.1
_CLEARLY_SMALLER = 0.2
# Of points read in pairs the steps are about twice as long.
_HALF = 0.75
_FEW_POINTS = 100  # fewer say nothing about their order
_SAMPLES = 500  # pairs of points that are looked at
_UNKNOWN = 1.0
_FAR = 1e7  # m, more than the Earth's radius: no coordinates
_STRAY = 0.02  # share of values
_FLAT = 1e-3  # m, no scan is so small


def check_point_fields(path: Path, values: np.ndarray, size: int, fields: int) -> None:
    """Refuse a file that has another number of values per point than is said.

    Args:
        values: f32 [size / 4], the file. size: bytes of the file. fields: values per point as they are expected.

    Raises:
        UserError: the size is no multiple, or another number fits far better.
    """
    if size % (4 * fields):
        fault = f"its {size} bytes are no multiple of {4 * fields}"
        raise _misread(path, fields, fault, _better(values, fields, _UNKNOWN))
    step = typical_step(values, fields)
    if step < _ORDERED:
        better = _divisor(values, fields, step)
    else:
        better = _better(values, fields, step)
    if better is not None:
        raise _misread(path, fields, "read so, neighbours lie anywhere", better)
    if _is_noise(_pairs(values, fields)):
        raise _misread(path, fields, "read so, x, y and z are no coordinates", None)


def typical_step(values: np.ndarray, fields: int) -> float:
    """How far a point and the next lie apart, as a share of the extent of all.

    Args:
        values: f32 or f64, the file as it lies on disk.

    Returns:
        the mean over x, y, z of some hundred pairs; 1 where there are too few points or values are no coordinates.
    """
    pairs = _pairs(values, fields)
    first, second = pairs[:, np.isfinite(pairs).all((0, 2))]
    if len(first) < _FEW_POINTS or _is_noise(pairs):
        return _UNKNOWN
    ordered = np.sort(first, 0)
    extent = ordered[int(0.9 * (len(first) - 1))] - ordered[int(0.1 * (len(first) - 1))]
    if min(extent[0], extent[1]) < _FLAT:
        return _UNKNOWN
    steps = np.median(np.abs(second - first), 0) / (extent + 1e-6)  # a flat scan has none along z
    return float(np.minimum(steps, 1).mean())


def _pairs(values: np.ndarray, fields: int) -> np.ndarray:
    """F64 [2, P, 3]: coordinates of some points, and of the points that follow them in the file."""
    count = len(values) // fields
    points = values[: count * fields].reshape(count, fields)[:, :3]
    if count < 2:
        return np.zeros((2, 0, 3))
    rows = np.linspace(0, count - 2, min(_SAMPLES, count - 1)).astype(np.int64)
    with np.errstate(invalid="ignore"):  # misread values are anything
        return np.stack([points[rows], points[rows + 1]]).astype(np.float64)


def _is_noise(pairs: np.ndarray) -> bool:
    """Whether values are far more often no coordinates than stray points are; points without return do not count."""
    finite = pairs[np.isfinite(pairs)]
    return len(finite) > 0 and float(np.mean(np.abs(finite) > _FAR)) > _STRAY


def _divisor(values: np.ndarray, fields: int, step: float) -> str | None:
    """What fits in place of ``fields``, where that is a multiple and therefore fits too."""
    for count in range(3, fields):
        if fields % count == 0 and typical_step(values, count) < _HALF * step:
            return _described(count, "float32")
    return None


def _better(values: np.ndarray, fields: int, step: float) -> str | None:
    """What fits clearly better than ``fields`` and all else, None = nothing does."""
    for dtype in ("float32", "float64"):
        read = values
        if dtype == "float64":
            read = values[: len(values) // 2 * 2].view("<f8")
        steps = {}
        for count in _CANDIDATES:
            if len(read) % count == 0 and (count != fields or dtype == "float64"):
                steps[count] = typical_step(read, count)
        best = min(steps, key=lambda count: steps[count], default=None)
        if best is None:
            continue
        others = [_ORDERED / _CLEARLY_SMALLER, step]
        for count, other in steps.items():
            if count % best and best % count:
                others.append(other)
        if steps[best] < _CLEARLY_SMALLER * min(others):
            return _described(best, dtype)
    return None


def _described(count: int, dtype: str) -> str:
    text = f"{count} {dtype} per point"
    if count == 3:
        text += ", no intensity,"
    return text


def _misread(path: Path, fields: int, fault: str, better: str | None) -> UserError:
    if better is None:
        return UserError(
            f"this scan does not have {fields} float32 values per point: {fault}; "
            "no other number fits clearly either",
            where=str(path),
            cure="The file was cut short in copying or unpacking, or is no array of float32; copy it again",
        )
    cure = (
        "Say how many values each point has with --point-fields N or dataset.point_fields "
        "(x, y, z, intensity, …), or copy the file again"
    )
    if "float64" in better:
        cure = "Write it as float32, or as an array with numpy.save (.npy), which may be float64"
    return UserError(
        f"this scan does not have {fields} float32 values per point: {fault}; {better} would fit",
        where=str(path),
        cure=cure,
    )

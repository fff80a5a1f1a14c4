"""Reading of scans and labels, with the checks each file passes on its way in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from core.decode import read_bytes
from core.errors import UserError

__all__ = ["listing", "meant_above", "on_disk", "read_labels", "read_points"]

_LEVELS = 3  # folders above a wrong root that are looked at
_MISSING = "Run 'python -m core.check_data CONFIG' to see everything that is missing"


def listing(folder: Path) -> frozenset[str]:
    """Names in ``folder``, empty if it does not exist; one directory read in place of one look-up per file."""
    try:
        return frozenset(entry.name for entry in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def on_disk(root: Path, files: np.ndarray) -> np.ndarray:
    """Bool, shape of ``files`` (bytes, relative to ``root``): the file exists. Each folder is read once."""
    paths = [PurePosixPath(name.decode()) for name in files.ravel()]
    folders = {}
    for parent in {path.parent for path in paths}:
        folders[parent] = listing(root / parent)
    there = [path.name in folders[path.parent] for path in paths]
    return np.array(there, bool).reshape(files.shape)


def meant_above(root: Path, is_root: Callable[[Path], bool]) -> str:
    """ "Did you mean …? " where a folder above ``root`` is what was looked for, else nothing."""
    for folder in list(root.resolve().parents)[:_LEVELS]:
        if is_root(folder):
            return f"Did you mean {folder}? "
    return ""


def read_points(path: Path, fields: int, *, used: int = 4) -> np.ndarray:
    """Read a scan.

    Args:
        path: little-endian float32, ``fields`` values per point.
        used: leading values kept: x, y, z (m), intensity, and what follows them.

    Returns:
        f32 [N, used], N > 0, the first four finite.

    Raises:
        UserError: the file is missing, cut short, empty, or holds NaN or infinite values.
    """
    content = read_bytes(path, "scan", cure=_MISSING)
    size = len(content)
    if size % (4 * fields):
        whole = size // (4 * fields)
        raise UserError(
            f"the file has {size} bytes, which is not a multiple of {4 * fields} ({fields} float32 per point): "
            f"{whole} whole points and {size - whole * 4 * fields} bytes over",
            where=str(path),
            cure="The file was cut short in copying or unpacking, or has another number of values per point; "
            "unpack it again",
        )
    values = np.frombuffer(content, "<f4")
    if not values.size:
        raise UserError("the scan holds no points", where=str(path), cure="Unpack the file again")
    points = np.ascontiguousarray(values.reshape(-1, fields)[:, :used], np.float32)
    finite = np.isfinite(points[:, :4])
    if not finite.all():
        bad = int((~finite.all(1)).sum())
        raise UserError(
            f"{bad} of {len(points)} points have NaN or infinite values",
            where=str(path),
            cure="Unpack the file again",
        )
    return points


def read_labels(path: Path, dtype: np.dtype, count: int) -> np.ndarray:
    """Read one unsigned id per point, [count] of ``dtype``.

    Raises:
        UserError: the file is missing or has another number of ids than the scan has points.
    """
    dtype = np.dtype(dtype)
    content = read_bytes(path, "label file", cure=_MISSING)
    if len(content) != count * dtype.itemsize:
        raise UserError(
            f"the label file has {len(content)} bytes = {len(content) // dtype.itemsize} labels of {dtype.itemsize} "
            f"bytes, but the scan has {count} points",
            where=str(path),
            cure="The two files do not belong together or one is cut short; unpack both again",
        )
    return np.frombuffer(content, dtype)

"""Labels of one's own scans: an id per point, in a file of its own or in a column of the scan file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.datasets.files import read_labels
from core.decode import read_array, read_arrays
from core.errors import UserError

__all__ = ["check_ids", "read_ids"]

_ARRAYS = (".npy", ".npz")
_LARGEST = (1 << 32) - 1


def read_ids(path: Path, dtype: np.dtype, count: int, key: str | None = None) -> np.ndarray:
    """Read a label file.

    Args:
        dtype: of one id, where the file is no ``.npy`` or ``.npz``, which say it themselves.
        count: points of the scan.
        key: array of an ``.npz`` file, None = the only one.

    Returns:
        ids u8, u16 or u32 [count].

    Raises:
        UserError: the file is missing, damaged or holds no ids, or another number of them.
    """
    suffix = path.suffix.lower()
    if suffix not in _ARRAYS:
        return read_labels(path, dtype, count)
    cure = "Run 'python -m core.check_data CONFIG' to see everything that is missing"
    if suffix == ".npy":
        return check_ids(read_array(path, "label file", cure=cure), count, path)
    arrays = read_arrays(path, "label file", cure=cure)
    if key is None and len(arrays) == 1:
        return check_ids(next(iter(arrays.values())), count, path)
    if key not in arrays:
        raise UserError(
            f"the file holds the arrays {', '.join(arrays) or 'none'}; which are the labels is not said",
            where=str(path),
            cure="Set dataset.label_key to one of them",
        )
    return check_ids(arrays[key], count, path)


def check_ids(ids: np.ndarray, count: int, path: Path) -> np.ndarray:
    """Ids u8, u16 or u32 [count] of an array of integers [count] or [count, 1].

    Raises:
        UserError: there are more or fewer, or something else than ids.
    """
    ids = np.atleast_1d(ids)
    if ids.dtype.kind not in "iu" or ids.shape not in ((len(ids),), (len(ids), 1)):
        raise UserError(
            f"the labels are {ids.dtype} {list(ids.shape)}; expected integers [{count}]",
            where=str(path),
            cure="Save one id per point",
        )
    if len(ids) != count:
        raise UserError(
            f"the file has {len(ids)} labels, but the scan has {count} points",
            where=str(path),
            cure="The two files do not belong together; write them again. Points without return have labels too",
        )
    low, high = int(ids.min(initial=0)), int(ids.max(initial=0))
    if low < 0 or high > _LARGEST:
        raise UserError(
            f"ids run from {low} to {high}; expected 0 to {_LARGEST}",
            where=str(path),
            cure="Give points without a class an id that the label space maps to 0",
        )
    if ids.dtype.kind == "i" or ids.dtype.itemsize > 4:
        ids = ids.astype(np.uint32)
    return ids.reshape(count)

"""Which segments and frames a split of Waymo has, and in which format they lie there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from core.datasets.base import SplitName
from core.datasets.files import listing, meant_above
from core.datasets.waymo.exported import RETURNS, exported_names
from core.datasets.waymo.index import FrameList
from core.datasets.waymo.segment import Segment
from core.decode import read_text
from core.errors import UserError
from core.registry import load_entry

__all__ = [
    "FOLDERS",
    "FORMATS",
    "SEGMENTS",
    "TEST_LIST",
    "FormatName",
    "find_format",
    "find_root",
    "find_segments",
    "listed_frames",
]

FormatName = Literal["v1", "v2", "npy"]
FORMATS: dict[str, str] = {  # dataset.format -> module:class; of the releases
    "v1": "core.datasets.waymo.v1.segment:RecordSegment",
    "v2": "core.datasets.waymo.v2.segment:TableSegment",
}
FOLDERS: dict[str, tuple[str, ...]] = {
    "train": ("training",),
    "val": ("validation",),
    "test": ("testing", "testing_location"),
}
SEGMENTS = {"train": 798, "val": 202, "test": 150}  # of the official splits
_ALL_FOLDERS = tuple(folder for folders in FOLDERS.values() for folder in folders)
TEST_LIST = "3d_semseg_test_set_frames.txt"
_LIST = f"dataset.test_frames names {TEST_LIST} of the waymo-open-dataset repository, as it is"
_NAMES = {
    "v1": "segment-*.tfrecord",
    "v2": "lidar/*.parquet",
    "npy": f"arrays below {RETURNS[0]}/",
}


def find_root(root: Path) -> Path:
    """The folder that holds ``training`` and ``validation``, or those of exported points.

    Raises:
        UserError: neither ``root`` nor its folder ``individual_files`` (as v1 is distributed) does.
    """
    for candidate in (root, root / "individual_files"):
        if _is_root(candidate):
            return candidate
    what = "this folder does not exist"
    if root.is_dir():
        what = f"this folder holds none of {', '.join(_ALL_FOLDERS)} and no {RETURNS[0]}"
    raise UserError(
        what,
        where=str(root),
        cure=meant_above(root, _is_root)
        + "dataset.root must contain training/ and validation/ of the Waymo Open Dataset, perception (v1: .tfrecord, "
        "v2: .parquet), or first_return/ with exported points; set dataset.root",
    )


def _is_root(folder: Path) -> bool:
    return not {*_ALL_FOLDERS, RETURNS[0]}.isdisjoint(listing(folder))


def find_format(root: Path, split: SplitName, wanted: FormatName | None) -> FormatName:
    """The format that a split lies in.

    Raises:
        UserError: it lies in none, in several and none is chosen, or not in the chosen one.
    """
    found = [name for name in get_args(FormatName) if _holds(root, split, name)]
    if wanted is not None and wanted in found:
        return wanted
    folders = " or ".join(FOLDERS[split])
    if not found:
        kinds = _NAMES if wanted is None else {wanted: _NAMES[wanted]}
        told = ", ".join(f"{name}: {files}" for name, files in kinds.items())
        raise UserError(
            f"the {split} split is empty: no segment lies in {folders} ({told})",
            where=str(root),
            cure="Download that folder of the Waymo Open Dataset (https://waymo.com/open), or set dataset.root",
        )
    if wanted is not None:
        raise UserError(
            f"dataset.format is {wanted} ({_NAMES[wanted]}), but {folders} holds {found[0]} ({_NAMES[found[0]]})",
            where=str(root),
            cure=f"Set dataset.format {found[0]}, or leave it out",
        )
    if len(found) > 1:
        raise UserError(
            f"{folders} holds the formats {' and '.join(found)}",
            where=str(root),
            cure=f"Choose one: dataset.format {' or '.join(found)}",
        )
    return found[0]


def _holds(root: Path, split: SplitName, name: FormatName) -> bool:
    for folder in FOLDERS[split]:
        if name == "npy" and exported_names(root, folder):
            return True
        if name == "v1" and any(file.endswith(".tfrecord") for file in listing(root / folder)):
            return True
        if name == "v2" and listing(root / folder / "lidar"):
            return True
    return False


def find_segments(root: Path, split: SplitName, name: FormatName) -> dict[str, Segment]:
    """The segments of a split of a release, by name in alphabetical order.

    Raises:
        UserError: one is there twice.
    """
    kind: type[Segment] = load_entry(FORMATS[name])
    found: dict[str, Segment] = {}
    for folder in FOLDERS[split]:
        for context, segment in kind.find(root / folder).items():
            if context in found:
                what = f"segment {context} is there twice, as {found[context].path} too"
                raise UserError(what, where=str(segment.path), cure="Remove one of them")
            found[context] = segment
    return dict(sorted(found.items()))


def listed_frames(path: Path, frames: FrameList) -> tuple[np.ndarray, Sequence[str]]:
    """The frames that a list of ``context_name,timestamp_micros`` names.

    Returns:
        their rows i64, rising; the lines of frames that are not there.

    Raises:
        UserError: the list is missing, empty, or a line is no such pair or there twice.
    """
    rows, absent, seen = [], [], set()
    lines = read_text(path, "list of frames", cure=_LIST).splitlines()
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text:
            continue
        name, _, timestamp = text.partition(",")
        if not name or not timestamp.isascii() or not timestamp.isdecimal() or text in seen:
            what = f"line {number} is '{text[:80]}', which is no 'context_name,timestamp_micros' or there twice"
            raise UserError(what, where=str(path), cure=_LIST)
        seen.add(text)
        row = frames.find(name, int(timestamp)) if len(timestamp) < 19 else None
        if row is None:
            absent.append(text)
        else:
            rows.append(row)
    if not seen:
        raise UserError("the list names no frame", where=str(path), cure=_LIST)
    return np.sort(np.array(rows, np.int64)), absent

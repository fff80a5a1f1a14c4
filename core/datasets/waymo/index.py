"""Memory-mapped index of the frames of one split: where each lies, when it was, whether it has labels, its pose.

A split has 158,081 frames in 798 files of a gigabyte. Each file is gone through once; its rows are kept until a file
changes. Segments are indexed in parallel and one by one, so that what a killed job has done is not done again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger
from pydantic import BaseModel
from tqdm import tqdm

from core.datasets.index_folder import index_folder, waiting_lock
from core.datasets.waymo.frame import FRAME_ROW
from core.datasets.waymo.segment import Segment
from core.decode import kept, read_array, read_json
from core.errors import UserError, counted
from core.geometry import first_fault
from core.io import atomic_path, sha256, write_json
from core.machine import usable_cores
from core.processes import shared_work

__all__ = ["WORKERS", "FrameIndex", "FrameList", "open_index"]

WORKERS = "dataset.index_workers"  # the key that says how many processes build one
_INDEX = "index.json"
_ROWS = "rows.npy"
_PARTS = "segments"  # folder of rows of single segments, until all are joined
_FORMAT = 1  # raise when rows change their meaning, so that older indices are built anew


class _Entry(BaseModel):
    """A segment, the stamp of the files it was read from, its number of frames."""

    name: str
    stamp: str
    frames: int


class _Stored(BaseModel):
    """``index.json``, which is written last: its segments, and the SHA-256 of them and of the rows' file."""

    segments: list[_Entry]
    segments_sha256: str
    rows_sha256: str

    @classmethod
    def of(cls, segments: list[_Entry], rows: Path) -> _Stored:
        return cls(segments=segments, segments_sha256=_digest(segments), rows_sha256=sha256(rows))


def _digest(segments: list[_Entry]) -> str:
    described = [entry.model_dump() for entry in segments]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


class FrameList:
    """All frames of a split, segment by segment, by rising time.

    Attributes:
        rows: ``FRAME_ROW`` [F]. names: of the segments [S]. bounds: i64 [S + 1]; the rows of segment s are
            ``bounds[s]:bounds[s + 1]``.
    """

    def __init__(self, rows: np.ndarray, names: Sequence[str], counts: Sequence[int]) -> None:
        """Join segments; ``counts`` are their numbers of frames."""
        self.rows = rows
        self.names = tuple(names)
        self.bounds = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return len(self.rows)

    def segment_of(self, row: int) -> int:
        """Number of the segment that a row belongs to."""
        return int(np.searchsorted(self.bounds, row, "right")) - 1

    def rows_of(self, segment: int) -> range:
        """Rows of a segment."""
        return range(int(self.bounds[segment]), int(self.bounds[segment + 1]))

    def token(self, row: int) -> str:
        """``<context_name>/<timestamp_micros>``."""
        return f"{self.names[self.segment_of(row)]}/{self.rows['timestamp'][row]}"

    def find(self, name: str, timestamp: int) -> int | None:
        """The row of a segment's frame, None where there is none."""
        segment = self._numbers.get(name)
        if segment is None:
            return None
        rows = self.rows_of(segment)
        times = self.rows["timestamp"][rows.start : rows.stop]
        place = int(np.searchsorted(times, timestamp))
        if place == len(times) or times[place] != timestamp:
            return None
        return rows.start + place

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}


class FrameIndex(FrameList):
    """The list of a split as it lies in a folder, mapped: its pages are shared by every process on the machine."""

    def __init__(self, folder: Path, *, verify: bool = False) -> None:
        """Map the rows of a folder.

        Args:
            verify: compare the file with its hash, too.

        Raises:
            UserError: a file is missing, damaged or of another version.
        """
        self.folder = folder
        stored = read_json(folder / _INDEX, _Stored)
        if _digest(stored.segments) != stored.segments_sha256:
            raise UserError("this index was altered", where=str(folder / _INDEX))
        self.entries = tuple(stored.segments)
        path = folder / _ROWS
        rows = read_array(path, mapped=True)
        names = [entry.name for entry in self.entries]
        super().__init__(rows, names, [entry.frames for entry in self.entries])
        foreign = rows.dtype != FRAME_ROW or rows.shape != (self.bounds[-1],)
        if foreign or (verify and sha256(path) != stored.rows_sha256):
            raise UserError(f"this file is not the one that {_INDEX} names", where=str(path))

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        """A worker maps the file again in place of receiving it."""
        return FrameIndex, (self.folder,)


def open_index(
    root: Path, split: str, segments: Mapping[str, Segment], workers: int | None = None
) -> FrameIndex:
    """Open the index of a split, building first what is new or has changed, or is damaged.

    One process builds while others wait for it. The index lies in ``root/.lidistill``, or in the user's cache folder
    when the root is read-only.

    Args:
        split: names the index. segments: at least one, all of one format.
        workers: processes, 0 = this one; None = one per core, at most 16.

    Raises:
        UserError: a segment is damaged; what was indexed before it is kept.
    """
    stamps = {name: _stamp(segment) for name, segment in segments.items()}
    whole = hashlib.sha256(json.dumps(list(stamps.items())).encode()).hexdigest()[:16]
    kind = next(iter(segments.values())).format
    cache = index_folder(root) / "waymo" / f"{kind}-{split}"
    folder = cache / whole
    index = _stored_index(folder)
    if index is not None:
        return index
    with waiting_lock(cache / "lock"):
        index = _stored_index(folder)  # another process may have built it meanwhile
        if index is not None:
            return index
        _build(cache, folder, segments, stamps, workers)
        _tidy(cache, folder)
    return FrameIndex(folder)


def _stored_index(folder: Path) -> FrameIndex | None:
    """The index of a folder, None where there is none or a damaged one, which has to be built anew."""
    if not (folder / _INDEX).is_file():
        return None
    return kept(lambda: FrameIndex(folder, verify=True))


def _stamp(segment: Segment) -> str:
    """What tells the files of a segment from those that replace them."""
    identity: list[Any] = [_FORMAT, segment.format]
    for path in segment.sources():
        try:
            status = path.stat()
            identity.append([path.name, status.st_size, status.st_mtime_ns])
        except (
            FileNotFoundError
        ):  # a table that this segment lacks; one that it needs is told of when it is read
            identity.append([path.name])
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror})", where=str(path)) from error
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Indexer:
    """Goes through one segment and keeps its rows in a file of their own."""

    segments: Mapping[str, Segment]
    files: Mapping[str, Path]

    def __call__(self, name: str) -> None:
        rows = self.segments[name].frames()
        _check(rows, self.segments[name])
        with atomic_path(self.files[name]) as temporary, open(temporary, "wb") as stream:
            np.save(stream, rows, allow_pickle=False)


def _check(rows: np.ndarray, segment: Segment) -> None:
    """Refuse rows that no index may hold.

    Raises:
        UserError: there is none, two have one time, or a pose is no rigid transform.
    """
    if rows.dtype != FRAME_ROW or rows.ndim != 1:
        raise TypeError(f"{type(segment).__name__}.frames() gave {rows.dtype} {rows.shape}")
    fault = None
    if not len(rows):
        fault = "the segment holds no frame"
    elif (np.diff(rows["timestamp"]) <= 0).any():
        fault = (
            "the frames of the segment are not in the order of their times, or one is there twice"
        )
    else:
        pose = first_fault(rows["pose"])
        if pose is not None:
            fault = f"the pose of frame {rows['timestamp'][pose[0]]} {pose[1]}"
    if fault is not None:
        raise UserError(fault, where=str(segment.path), cure="Download the segment again")


def _build(
    cache: Path,
    folder: Path,
    segments: Mapping[str, Segment],
    stamps: Mapping[str, str],
    workers: int | None,
) -> None:
    """Index the segments that neither an earlier index nor a killed job has; then join the rows of all."""
    reused = _reusable(cache, stamps)
    files = {}
    for name, stamp in stamps.items():
        if name not in reused:
            files[name] = cache / _PARTS / f"{name}-{stamp}.npy"
    missing = [name for name, path in files.items() if _part(path) is None]
    if missing:
        logger.info("indexing {} of {} (once)", counted(len(missing), "segment"), len(segments))
    count = min(usable_cores(16) if workers is None else workers, len(missing))
    with shared_work(_Indexer(segments, files), missing, count, WORKERS) as results:
        hidden = not sys.stderr.isatty()
        for _ in tqdm(results, total=len(missing), desc="index", unit="segment", disable=hidden):
            pass
    _join(folder, stamps, reused, files)


def _reusable(cache: Path, stamps: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Rows of segments that have not changed since an earlier index."""
    found = {}
    for path in sorted(cache.glob(f"*/{_INDEX}")):
        index = _stored_index(path.parent)
        if index is None:
            continue
        for number, entry in enumerate(index.entries):
            if stamps.get(entry.name) == entry.stamp:
                rows = index.rows_of(number)
                found[entry.name] = index.rows[rows.start : rows.stop]
    return found


def _part(path: Path) -> np.ndarray | None:
    """The rows of one segment that a job has kept, None where it has none or a damaged file."""
    if not path.is_file():
        return None
    rows = kept(lambda: read_array(path))
    return None if rows is None or rows.dtype != FRAME_ROW else rows


def _join(
    folder: Path,
    stamps: Mapping[str, str],
    reused: Mapping[str, np.ndarray],
    files: Mapping[str, Path],
) -> None:
    """Write the rows of all segments into one file, then the file that names it."""
    entries = []
    path = folder / _ROWS
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        parts = []
        for name, stamp in stamps.items():
            rows = reused[name] if name in reused else read_array(files[name])
            entries.append(_Entry(name=name, stamp=stamp, frames=len(rows)))
            parts.append(rows)
        np.save(stream, np.concatenate(parts), allow_pickle=False)
    write_json(folder / _INDEX, _Stored.of(entries, path).model_dump(), indent=None)


def _tidy(cache: Path, folder: Path) -> None:
    """Remove the parts that are now joined, and earlier indices that hold no further segment."""
    shutil.rmtree(cache / _PARTS, ignore_errors=True)
    names = set(FrameIndex(folder).names)
    for path in cache.glob(f"*/{_INDEX}"):
        old = _stored_index(path.parent)
        if path.parent != folder and (old is None or names.issuperset(old.names)):
            shutil.rmtree(path.parent, ignore_errors=True)

"""Scans and poses in the order in which a scanner writes them: a folder as it lies there, or one that still grows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from loguru import logger

from core.contracts import Points, Scan, Sensor
from core.datasets.find import contents, is_hidden, natural_order
from core.datasets.poses import parse_poses
from core.datasets.scan_formats import SCAN_FORMATS, stem_of, suffix_of
from core.datasets.semantickitti.drive import read_lidar_place
from core.decode import read_bytes
from core.errors import UserError, counted
from core.geometry import invert

__all__ = ["LiveFolder", "LivePoses", "LiveScan", "Watch", "frame_number"]

_POLL = 0.02  # s between two looks at a folder; a file is whole when its size is the same in both
_PATIENCE = 2.0  # s that a pose is waited for in silence
_FRAME_DIGITS = 6  # of names that are numbers of frames, as KITTI has them


@dataclass(frozen=True)
class LiveScan:
    """A scan as it came.

    Attributes:
        scan: its pose is NaN where poses are not asked for.
        follows: the scan before it in its drive came right before it; False for the first, and after a hole.
        seconds: s that reading took. poses: files that its pose comes from.
    """

    scan: Scan
    follows: bool
    seconds: float
    poses: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Watch:
    """How a folder that grows is watched.

    Attributes:
        stopped: asked again and again; True ends the stream. timeout: s without a new scan that end it; None = none do.
    """

    stopped: Callable[[], bool]
    timeout: float | None = None


def frame_number(path: Path) -> int | None:
    """The number of a frame that a scan file is named by, ``000123.bin``; None where it is named otherwise."""
    stem = stem_of(path)
    if len(stem) == _FRAME_DIGITS and stem.isascii() and stem.isdecimal():
        return int(stem)
    return None


class LivePoses:
    """Poses of a text file, one line per scan, which may still grow.

    Args:
        path: 12 or 16 numbers per line. Where ``calib.txt`` lies beside it, they are those of KITTI's camera, whose
            place it says; else those of the scanner.
        grows: a last line without an end is one that is being written.
    """

    def __init__(self, path: Path, *, grows: bool = False) -> None:
        self.path, self._grows = path, grows
        self._poses: list[np.ndarray] = []
        self._taken = 0  # bytes
        calib = path.parent / "calib.txt"
        self._place = read_lidar_place(calib) if calib.is_file() else None

    def __len__(self) -> int:
        return len(self._poses)

    def at(self, row: int) -> np.ndarray | None:
        """Scanner -> world, f64 [4, 4], of a row from 0; None where the file has fewer.

        Raises:
            UserError: the file is missing or has become shorter, or see :func:`core.datasets.poses.read_poses`.
        """
        if row >= len(self._poses):
            self._take()
        return self._poses[row] if row < len(self._poses) else None

    def _take(self) -> None:
        """Read the lines that have come since."""
        if self._grows and not self.path.is_file():
            return
        content = read_bytes(self.path, "file of poses")
        if len(content) < self._taken:
            raise UserError(
                f"the file has {len(content)} bytes and had {self._taken} before: it belongs to another drive now",
                where=str(self.path),
                cure="Start the stream again",
            )
        new = content[self._taken :]
        if self._grows:
            new = new[: new.rfind(b"\n") + 1]
        self._taken += len(new)
        lines = new.decode("ascii", "replace").rstrip().splitlines()
        poses = parse_poses(lines, self.path, first=len(self._poses) + 1)
        if self._place is not None:
            poses = invert(self._place) @ poses @ self._place
        self._poses += list(poses)


class LiveFolder:
    """Scans of a folder by their names, numbers by value, each once and in order.

    Args:
        root: holds files of one kind of :data:`core.datasets.scan_formats.SCAN_FORMATS`.
        read: makes points of a file. sensor: the scanner.
        poses: whose line is that of a scan's frame number, or of its position where names are no numbers of six digits;
            None = scans have no poses.
        watch: how the folder is watched; None = it is whole.
        skip: leave damaged scans out, with a warning. clock: gives the seconds of reading.
    """

    def __init__(
        self,
        root: Path,
        read: Callable[[Path], Points],
        sensor: Sensor,
        *,
        poses: LivePoses | None = None,
        watch: Watch | None = None,
        skip: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.root, self.read, self.sensor, self.clock = root, read, sensor, clock
        self.poses, self.watch, self.skip = poses, watch, skip
        if watch is None:
            self._check_poses()

    def __iter__(self) -> Iterator[LiveScan]:
        """Read scan after scan.

        Raises:
            UserError: a scan is damaged or has no pose, or none came in time.
        """
        before: int | None = None  # number of the scan that came before
        whole = False  # and it was read
        for position, path in enumerate(self._paths()):
            number = frame_number(path)
            row = position if number is None else number
            start = self.clock()
            try:
                points = self.read(path)
            except UserError as error:
                if not self.skip:
                    raise
                logger.warning("left out: {}", error)
                whole = False
                continue
            scan = Scan(stem_of(path), points, self.sensor)
            seconds = self.clock() - start
            if self.poses is not None:
                pose = self._pose(self.poses, row, path)
                if pose is None:
                    return
                scan = replace(scan, pose=pose)
            files = () if self.poses is None else (self.poses.path,)
            yield LiveScan(scan, whole and before == row - 1, seconds, files)
            before, whole = row, True

    def _check_poses(self) -> None:
        """Refuse a whole folder whose poses end before its scans."""
        paths = _scan_files(self.root)
        if not paths:
            raise UserError(
                f"no scans; {contents(self.root)}",
                where=str(self.root),
                cure=f"Give a folder of {', '.join(SCAN_FORMATS)} files; --follow waits for them",
            )
        if self.poses is None:
            return
        for position, path in enumerate(paths):
            number = frame_number(path)
            if self.poses.at(position if number is None else number) is None:
                raise self._too_short(self.poses, path)

    def _too_short(self, poses: LivePoses, path: Path) -> UserError:
        return UserError(
            f"the file has {counted(len(poses), 'line')}, too few for scan {path.name}",
            where=str(poses.path),
            cure="Give a pose per scan; the line of 000123.bin is the 124th",
        )

    def _pose(self, poses: LivePoses, row: int, path: Path) -> np.ndarray | None:
        """The pose of a scan, which may come after it; None where the stream is stopped meanwhile."""
        start = time.monotonic()
        told = False
        while True:
            pose = poses.at(row)
            if pose is not None:
                return pose
            if self.watch is None or self._is_over(start):
                raise self._too_short(poses, path)
            if self.watch.stopped():
                return None
            if not told and time.monotonic() - start > _PATIENCE:
                logger.warning("waiting for the pose of {} in {}", path.name, poses.path)
                told = True
            time.sleep(_POLL)

    def _is_over(self, start: float) -> bool:
        """Whether the watch has waited long enough since ``start``."""
        limit = None if self.watch is None else self.watch.timeout
        return limit is not None and time.monotonic() - start > limit

    def _paths(self) -> Iterator[Path]:
        if self.watch is None:
            yield from _scan_files(self.root)
            return
        seen: set[Path] = set()
        sizes: dict[Path, int] = {}
        last: Path | None = None
        waiting = time.monotonic()
        while not self.watch.stopped():
            known, sizes = sizes, {path: path.stat().st_size for path in _scan_files(self.root)}
            for path, size in sizes.items():
                if path in seen:
                    continue
                if last is not None and natural_order(path) < natural_order(last):
                    logger.warning("{} came after {} and is left out", path.name, last.name)
                    seen.add(path)
                    continue
                if size == 0 or known.get(path) != size:
                    break  # still being written; those after it wait for their turn
                seen.add(path)
                last = path
                yield path
                waiting = time.monotonic()
                if self.watch.stopped():
                    return
            if self._is_over(waiting):
                if not seen:
                    raise UserError(
                        f"no scan came in {self.watch.timeout:g} s; {contents(self.root)}",
                        where=str(self.root),
                        cure="Wait longer with --timeout, or look at who writes the scans",
                    )
                return
            time.sleep(_POLL)


def _scan_files(root: Path) -> list[Path]:
    """Scan files of a folder in their order, all of one kind."""
    if not root.is_dir():
        raise UserError("there is no such folder", where=str(root), cure="Give a folder of scans")
    found = []
    with os.scandir(root) as entries:
        for entry in entries:
            path = Path(entry.path)
            if suffix_of(path) in SCAN_FORMATS and not is_hidden(entry.name):
                found.append(path)
    kinds = {suffix_of(path) for path in found}
    if len(kinds) > 1:
        raise UserError(
            f"the folder holds both {' and '.join(sorted(kinds))} files",
            where=str(root),
            cure="Give one folder of scans of one kind",
        )
    return sorted(found, key=natural_order)

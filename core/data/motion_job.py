"""Writes the motion maps of a data set's scans, in parallel, and goes on where it was stopped."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from loguru import logger
from tqdm import tqdm

from core.config import Config
from core.contracts import Scan
from core.data.motion import FinishedScan
from core.data.motion_kinds import Stream, motion_stream
from core.data.sample import keyframe_scan
from core.datasets import build_dataset
from core.datasets.base import ScanDataset
from core.datasets.columns import Column, column_file
from core.datasets.motion_config import MotionConfig, ResidualConfig
from core.datasets.motion_maps import (
    MotionSource,
    check_source,
    poses_digest,
    read_header,
    scanner_pose,
    write_motion,
)
from core.datasets.sequences import SequenceDataset
from core.errors import UserError, counted
from core.locks import sole_writer
from core.processes import WorkerPool

__all__ = ["MotionReport", "column_of_motion", "prepare_motion", "scans_of", "unbroken_runs"]

_CHUNK = 50  # scans of a task; their windows reach over its ends, so that shorter ones cost more


@dataclass(frozen=True)
class MotionReport:
    """What was done.

    Attributes:
        written, kept: scans whose maps were made, and whose maps were there. size: bytes of all of them.
    """

    written: int
    kept: int
    size: int

    @property
    def scans(self) -> int:
        """All of them."""
        return self.written + self.kept

    def text(self) -> str:
        """One line for a person."""
        each = self.size / max(self.scans, 1) / 1e3
        there = f", {self.kept:,} of which were there" if self.kept else ""
        return f"motion maps of {counted(self.scans, 'scan')}{there}; {each:.1f} kB each"


@dataclass(frozen=True)
class _Task:
    """Neighbouring scans ``first`` to before ``end`` of a run of scans."""

    run: range
    first: int
    end: int


def prepare_motion(
    config: Config, splits: Sequence[str], column: str | None = None, workers: int = 1
) -> MotionReport:
    """Write the motion maps of all scans of some splits to where ``dataset.columns`` looks for them.

    The windows of a scan hold scans of its own split and drive alone, and end where a frame is lacking.

    Args:
        config: its ``dataset`` names the scans and the column. column: its name; None = the only one of motion.
        workers: processes.

    Raises:
        UserError: there is no such column, a scan is damaged or has no pose, or there are maps that were made from
            other poses, another scan or with other settings.
    """
    total = MotionReport(0, 0, 0)
    for split in splits:
        dataset = scans_of(config, split)
        chosen = column_of_motion(dataset, column)
        folder = dataset.root / chosen.file.partition("{")[0]
        if not folder.is_dir() and not chosen.file.partition("{")[0].endswith("/"):
            folder = folder.parent
        with sole_writer(folder, "dataset.columns"):
            done = _write_split(dataset, chosen, workers)
        total = MotionReport(
            total.written + done.written, total.kept + done.kept, total.size + done.size
        )
    return total


def scans_of(config: Config, split: str, command: str = "prepare_motion.py") -> ScanDataset:
    """All scans of a split, with and without labels, which are not read; no sweeps.

    Args:
        command: that asks, for errors.
    """
    config = deepcopy(config)
    changes: dict[str, object] = {
        "use_labels": False,
        "labelled": None,
        "drop_static": None,
        "unlabelled": [],
        "pseudo_labels": None,
        "cameras": [],
    }
    if "multisweeps" in config.section("dataset"):
        changes["multisweeps"] = {"num_sweeps": 0}
    config.merge(changes, command, "dataset")
    return build_dataset(config, split)


def column_of_motion(dataset: ScanDataset, name: str | None) -> Column:
    """The column of motion of this name; None = the only one, of several of the same files that which looks ahead most.

    Raises:
        UserError: there is no such column, or none was named and there are several.
    """
    found = {key: column for key, column in dataset.columns.items() if column.motion is not None}
    if name in found:
        return found[name]
    if name is None and len({column.file for column in found.values()}) == 1:
        return max(found.values(), key=_delay)
    what = (
        f"'{name}' is no column of motion" if name else f"there are {len(found)} columns of motion"
    )
    raise UserError(
        f"{what}: {', '.join(found) or 'none is named'}",
        where="key 'dataset.columns'",
        cure="Write dataset: {columns: {motion: {file: 'motion/{token}.npz', channels: 8, motion: {}}}}, "
        "or choose one with --column",
    )


def _delay(column: Column) -> int:
    return -1 if column.motion is None else column.motion.delay


def unbroken_runs(dataset: ScanDataset) -> list[range]:
    """Positions of scans that follow one another: of one scene, and where frames are numbered without a hole."""
    runs: list[range] = []
    begin = 0
    for index in range(1, len(dataset) + 1):
        if index == len(dataset) or not _follows(dataset, index):
            runs.append(range(begin, index))
            begin = index
    return runs


def _follows(dataset: ScanDataset, index: int) -> bool:
    if dataset.scene(index) != dataset.scene(index - 1):
        return False
    if not isinstance(dataset, SequenceDataset):
        return True
    numbers = [int(dataset.token(i).rpartition("/")[2]) for i in (index - 1, index)]
    return numbers[1] == numbers[0] + 1


def _write_split(dataset: ScanDataset, column: Column, workers: int) -> MotionReport:
    assert column.motion is not None, "chosen by it"
    runs = unbroken_runs(dataset)
    _warn_of_short(dataset, runs, column.motion)
    _check_poses(dataset, column)
    tasks = list(_tasks(runs))
    work = _Writer(dataset, column, column.motion)
    written = kept = size = 0
    bar = tqdm(total=len(dataset), unit="scan", desc=dataset.split, disable=not sys.stderr.isatty())
    with WorkerPool(work, min(workers, len(tasks)), "--workers", work.named) as pool, bar:
        results = pool.run(tasks) if workers > 1 else map(work, tasks)
        for task, (new, there, taken) in zip(tasks, results):
            written, kept, size = written + new, kept + there, size + taken
            bar.update(task.end - task.first)
    return MotionReport(written, kept, size)


def _warn_of_short(
    dataset: ScanDataset, runs: Sequence[range], settings: MotionConfig | ResidualConfig
) -> None:
    """Say which scans can have no features at all."""
    short = [run for run in runs if len(run) < settings.shortest]
    if not short:
        return
    lost = sum(len(run) for run in short)
    first = dataset.token(short[0][0])
    logger.warning(
        f"{counted(lost, 'scan')} of {dataset.split} stand in {counted(len(short), 'run')} of fewer than "
        f"{settings.shortest} neighbouring scans, the first at {first}: they have no motion features, all are 0"
    )


def _check_poses(dataset: ScanDataset, column: Column) -> None:
    """See that each drive without all its maps has its own poses, up to its last scan, before anything is written.

    Raises:
        UserError: one has not.
    """
    last: dict[str, int] = {}
    lacking: set[str] = set()
    for index in range(len(dataset)):
        drive = dataset.drive(index)
        last[drive] = index
        if not column_file(column, dataset.root, dataset.token(index)).is_file():
            lacking.add(drive)
    for drive in sorted(lacking):
        index = last[drive]
        dataset.check_poses(index)
        scanner_pose(dataset.read(index, cameras=False), dataset.pose_files(index))


def _tasks(runs: Sequence[range]) -> Iterator[_Task]:
    for run in runs:
        for first in range(run.start, run.stop, _CHUNK):
            yield _Task(run, first, min(first + _CHUNK, run.stop))


@dataclass(frozen=True)
class _Writer:
    """Makes the maps of a task's scans that have none, in any process."""

    dataset: ScanDataset
    column: Column
    settings: MotionConfig | ResidualConfig

    def named(self, task: _Task) -> str:
        """The first scan's token."""
        return f"{self.dataset.token(task.first)} and those after it"

    def __call__(self, task: _Task) -> tuple[int, int, int]:
        """Count scans written, scans kept, and bytes."""
        wanted = set()
        size = 0
        for index in range(task.first, task.end):
            path = self._path(index)
            if path.is_file():
                self._check(task.run, index, path)
                size += path.stat().st_size
            else:
                wanted.add(index)
        if wanted:
            for path in self._written(task, wanted):
                size += path.stat().st_size
        return len(wanted), task.end - task.first - len(wanted), size

    def _written(self, task: _Task, wanted: set[int]) -> Iterator[Path]:
        """Stream the scans by and write the maps of those wanted; yield each file once it is written."""
        begin = max(task.run.start, min(wanted) - self.settings.past)
        end = min(task.run.stop, max(wanted) + 1 + self.settings.delay)
        stream = motion_stream(self.settings, skip=min(wanted) - begin)
        for finished in self._finished(stream, range(begin, end)):
            index = begin + finished.number
            if index in wanted:
                source = self._source(task.run, index, len(finished.xyz))
                path = self._path(index)
                write_motion(path, source, finished.motion)
                yield path

    def _finished(self, stream: Stream, scans: range) -> Iterator[FinishedScan]:
        for index in scans:
            scan = self._scan(index)
            pose = scanner_pose(scan, self.dataset.pose_files(index))
            finished = stream.push(scan.sensor.seen(scan.xyz), pose)
            if finished is not None:
                yield finished
        yield from stream.finish()

    def _scan(self, index: int) -> Scan:
        return keyframe_scan(self.dataset.read(index, cameras=False))

    def _path(self, index: int) -> Path:
        return column_file(self.column, self.dataset.root, self.dataset.token(index))

    def _source(self, run: range, index: int, points: int) -> MotionSource:
        poses = poses_digest(self.dataset.pose_files(index))
        before = min(index - run.start, self.settings.past)
        after = min(run.stop - 1 - index, self.settings.delay)
        return MotionSource(
            self.dataset.token(index), points, poses, self.settings, (before, after)
        )

    def _check(self, run: range, index: int, path: Path) -> None:
        """Refuse maps on disk that are not those which would be written; loading counts the points."""
        header = read_header(path)
        points = header.get("points")
        source = self._source(run, index, points if isinstance(points, int) else -1)
        check_source(header, source, path, same_delay=True)

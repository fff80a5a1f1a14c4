"""Where the scans of a stream come from: a split, a folder, or a folder that grows; and what is asked of a stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from core.contracts import Points
from core.data.motion_job import unbroken_runs
from core.datasets.base import DatasetConfig, ScanDataset, check_split
from core.datasets.folder import FolderConfig
from core.datasets.live import LiveFolder, LivePoses, LiveScan, Watch
from core.datasets.scan_columns import make_points
from core.datasets.scan_formats import read_table
from core.engine.run.stopping import STOP
from core.engine.score.source import folder_section
from core.errors import UserError

__all__ = ["StreamOptions", "StreamSource"]

_POSES = "poses.txt"


@dataclass(frozen=True)
class StreamOptions:
    """What the options of the command ask for.

    Attributes:
        delay: scans that a prediction may wait for. period: s between two scans.
        poses: file of poses; None = ``poses.txt`` with the scans or above them.
        follow: the folder grows. timeout: s without a new scan that end it; None = a signal alone does.
        format, point_fields: see :func:`core.engine.score.prediction.predict_checkpoint`.
        json_path: where the times go; None = ``latency.json`` with the predictions.
        clock: gives the seconds that are measured. warm: first scans whose times are not counted.
    """

    delay: int = 0
    period: float = 0.1
    poses: Path | None = None
    follow: bool = False
    timeout: float | None = None
    format: str | None = None
    point_fields: int | None = None
    json_path: Path | None = None
    clock: Callable[[], float] = time.perf_counter
    warm: int = 1


@dataclass(frozen=True)
class StreamSource:
    """Finds and reads scans in the order in which they come.

    Attributes:
        reader, section: of the data set whose scans they are. options: of the command.
        posed: each scan needs its pose. skip: scans that cannot be read are left out.
    """

    reader: type[ScanDataset]
    section: DatasetConfig
    options: StreamOptions
    posed: bool
    skip: bool

    def scans(self, source: str) -> Iterable[LiveScan]:
        """The scans of a folder or a split, in their order.

        Raises:
            UserError: there are none, or they have no poses.
        """
        kind, _, split = source.partition(":")
        if kind == "split":
            return self._of_split(split)
        return self._of_folder(Path(source))

    def _of_split(self, split: str) -> Iterator[LiveScan]:
        check_split(split)
        if self.options.follow or self.options.poses is not None:
            option = "--follow" if self.options.follow else "--poses"
            raise UserError(
                "a split lies there whole, with its poses",
                where=f"{option}, split:{split}",
                cure="Leave the option out, or name the folder of the scans",
            )
        section = self.section.model_copy(update={"use_labels": False, "columns": {}})
        dataset = self.reader(section, split)
        if self.posed:
            for run in unbroken_runs(dataset):
                dataset.check_poses(run.start)
        return _split_scans(dataset, self.options.clock)

    def _of_folder(self, source: Path) -> LiveFolder:
        root = source / "velodyne" if (source / "velodyne").is_dir() else source
        sensor = self.section.sensor.over(self.reader.sensor)
        watch = None
        if self.options.follow:
            watch = Watch(lambda: bool(STOP.asked), self.options.timeout)
        poses = self._poses(root) if self.posed else None
        read = _FolderReader(self.reader, self.section, self.options.point_fields)
        return LiveFolder(
            root,
            read,
            sensor,
            poses=poses,
            watch=watch,
            skip=self.skip,
            clock=self.options.clock,
        )

    def _poses(self, root: Path) -> LivePoses:
        given = self.options.poses
        if given is not None:
            return LivePoses(given, grows=self.options.follow)
        places = [root / _POSES, root.parent / _POSES]
        for path in places:
            if path.is_file():
                return LivePoses(path, grows=self.options.follow)
        raise UserError(
            f"no {_POSES} lies there or above, and the network reads motion, which is told by poses",
            where=str(root),
            cure="Name the file with --poses: a line of 12 numbers per scan, scanner -> world; with calib.txt beside "
            "it, KITTI's",
        )


class _FolderReader:
    """Reads the points of scan files, all of one kind."""

    def __init__(
        self, reader: type[ScanDataset], section: DatasetConfig, point_fields: int | None
    ) -> None:
        self.reader, self.section, self.point_fields = reader, section, point_fields
        self._columns: FolderConfig | None = None  # known with the first file

    def __call__(self, path: Path) -> Points:
        if self._columns is None:
            self._columns = folder_section(
                path.parent, f"*{path.suffix}", self.reader, self.section, self.point_fields
            )
        table = read_table(path, self._columns.point_fields)
        return make_points(table, self._columns, str(path))


def _split_scans(dataset: ScanDataset, clock: Callable[[], float]) -> Iterator[LiveScan]:
    """Scans of a split, run by run."""
    for run in unbroken_runs(dataset):
        for index in run:
            start = clock()
            scan = dataset.read(index, cameras=False)
            seconds = clock() - start
            yield LiveScan(scan, index > run.start, seconds, dataset.pose_files(index))

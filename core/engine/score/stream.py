"""``evaluate.py stream``: scans in the order in which they come, each predicted before the next, and how long it takes.

Nothing of a scan's future is read but what the network's motion features look at, which is as many scans as ``--delay``
grants. Poses are read as they are written; motion features are made on the way, in place of files.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from core.config import Config
from core.contracts import Points, Scan
from core.data import DataConfig, Recipe, collate
from core.data.motion_columns import MotionColumns
from core.data.motion_job import unbroken_runs
from core.data.sample import COLUMN_WIDTHS
from core.datasets import dataset_class
from core.datasets.base import DatasetConfig, ScanDataset, check_split
from core.datasets.columns import Column
from core.datasets.folder import FolderConfig
from core.datasets.live import LiveFolder, LivePoses, LiveScan, Watch
from core.datasets.motion_config import MotionConfig, ResidualConfig
from core.datasets.scan_columns import make_points
from core.datasets.scan_formats import read_table
from core.engine.run.distributed import World, sole_job
from core.engine.run.forward import infer
from core.engine.run.provenance import provenance
from core.engine.run.stopping import STOP
from core.engine.score.evaluation import predict_points
from core.engine.score.latency import Latency
from core.engine.score.opened import Opened
from core.engine.score.prediction import PredictionFolder, view_digest
from core.engine.score.segmenter import Segmenter
from core.engine.score.source import folder_section
from core.errors import UserError, counted
from core.io import write_json
from core.sparse import fold_batch_norm

__all__ = ["StreamOptions", "Streaming", "stream_checkpoint"]

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


def stream_checkpoint(
    world: World,
    config: Config,
    checkpoint: Path,
    source: str,
    out: Path,
    options: StreamOptions,
) -> Latency:
    """Predict the scans of ``source`` as if they came one by one; prints the times of each part.

    Args:
        source: a folder of scans, a drive's folder with ``velodyne``, or ``split:val``.
        out: folder of the predictions.

    Returns:
        the times.

    Raises:
        UserError: the network reads more than a stream gives (images of cameras, sweeps, columns from files) or looks
            farther ahead than ``delay``; scans or poses are missing or damaged; there are several processes.
    """
    _check_one(world)
    opened = Opened.of(world, config, checkpoint)
    streaming = Streaming.of(opened, options)
    labels = streaming.reader.label_space(streaming.section)
    folder = PredictionFolder(out, options.format or labels.format, labels)
    scans = streaming.scans(source)
    latency = Latency(options.period, options.clock, options.warm)
    with sole_job(world, out, "--out"):
        folder.begin(streaming.made_by, {}, world.rank)
        if options.follow:
            with STOP.awaited():
                streaming.run(scans, folder, latency)
        else:
            streaming.run(scans, folder, latency)
        found = latency.to_json() | streaming.described | provenance()
        write_json(options.json_path or out / "latency.json", found)
    sys.stdout.write(f"{latency.text()}\n{streaming.told(latency, folder)}\n")
    sys.stdout.flush()
    return latency


@dataclass(frozen=True)
class Streaming:
    """A trained network at work on scans as they come.

    Attributes:
        opened: the network and the job's configuration. options: of the command.
        reader, section: of the data set, for its classes, scanner and columns.
        data: the view, without images. motion: the columns of motion that it reads.
    """

    opened: Opened
    options: StreamOptions
    reader: type[ScanDataset]
    section: DatasetConfig
    data: DataConfig
    motion: dict[str, MotionConfig | ResidualConfig]

    @classmethod
    def of(cls, opened: Opened, options: StreamOptions) -> Streaming:
        """Look at what the network reads.

        Raises:
            UserError: see :func:`stream_checkpoint`.
        """
        config = opened.context.config
        reader = dataset_class(config)
        section = config.parse(reader.Config, "dataset")
        data = opened.context.data
        if data.uses_images(training=False):
            logger.info("no cameras in a stream: the network runs without images")
            data = data.model_copy(update={"images": False})
        motion = _motion_columns(data, section.columns)
        _check_sweeps(data, section)
        _check_delay(motion, options)
        return cls(opened, options, reader, section, data, motion)

    @property
    def delay(self) -> int:
        """Scans that a prediction waits for."""
        return MotionColumns(self.motion).delay

    @property
    def made_by(self) -> dict[str, Any]:
        """What ``classes.json`` remembers."""
        return {
            "checkpoint_sha256": self.opened.found.sha256,
            "settings_sha256": view_digest(self.opened.context.config, self.data, {}),
            "stream": {"delay": self.delay},
        } | self.opened.record

    @property
    def described(self) -> dict[str, Any]:
        """What times depend on."""
        context = self.opened.context
        device = context.world.device.type
        return {
            "delay": self.delay,
            "device": device,
            "threads": torch.get_num_threads(),
            "number_type": context.experiment.amp.number_type(device),
        }

    def told(self, latency: Latency, folder: PredictionFolder) -> str:
        """The last line for a person."""
        count = latency.to_json()["scans"]
        waits = "with its scan"
        if self.delay:
            ahead = 1e3 * self.delay * self.options.period
            waits = f"{counted(self.delay, 'scan')} ({ahead:g} ms) after its scan"
        return f"{counted(count, 'scan')} streamed, each prediction {waits} at the earliest, in {folder.root}"

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
        if self.motion:
            for run in unbroken_runs(dataset):
                dataset.check_poses(run.start)
        return _split_scans(dataset, self.options.clock)

    def _of_folder(self, source: Path) -> LiveFolder:
        root = source / "velodyne" if (source / "velodyne").is_dir() else source
        skip = self.data.on_bad_sample == "skip"
        sensor = self.section.sensor.over(self.reader.sensor)
        watch = None
        if self.options.follow:
            watch = Watch(lambda: bool(STOP.asked), self.options.timeout)
        poses = self._poses(root) if self.motion else None
        read = _FolderReader(self.reader, self.section, self.options.point_fields)
        return LiveFolder(
            root,
            read,
            sensor,
            poses=poses,
            watch=watch,
            skip=skip,
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

    def run(self, scans: Iterable[LiveScan], folder: PredictionFolder, latency: Latency) -> None:
        """Predict scan after scan into a folder."""
        network = fold_batch_norm(self.opened.network(folder.labels))
        step = _Step(self, network, folder, latency)
        columns = MotionColumns(self.motion)
        for live in scans:
            latency.begin(live.seconds)
            ready = [] if live.follows else list(columns.finish())
            ready += columns.push(live.scan, live.poses)
            latency.mark("motion")
            for scan in ready:
                step.predict(scan)
        latency.end()
        for scan in columns.finish():
            step.predict(scan)


class _Step:
    """Predicts one scan after another and says where the time goes."""

    def __init__(
        self,
        streaming: Streaming,
        network: torch.nn.Module,
        folder: PredictionFolder,
        latency: Latency,
    ) -> None:
        context = streaming.opened.context
        self.context, self.network = context, network
        self.folder, self.latency = folder, latency
        self.recipe = Recipe.of(streaming.data, training=False)
        self.compared = Segmenter(
            network,
            folder.labels,
            streaming.data,
            context.experiment,
            context.world.device,
            streaming.opened.found.sensor,
        )
        self.count = 0

    @torch.no_grad()
    def predict(self, scan: Scan) -> None:
        """Predict a scan and write its file."""
        if self.count == 0:  # in the first step, whose time does not count
            self.compared.compare(scan)
        batch = collate([self.recipe.sample(scan, self.count)]).to(self.context.world.device)
        self.count += 1
        self.latency.mark("cells")
        with self.context.autocast():
            output = infer(self.network, batch)
        classes = predict_points(output, batch).to(torch.uint8).cpu().numpy()
        self.latency.mark("network")
        self.folder.write(scan.token, classes)
        self.latency.mark("write")


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


def _check_one(world: World) -> None:
    if world.size > 1:
        raise UserError(
            f"{world.size} processes were started; a stream is the work of one",
            where="evaluate.py stream",
            cure="Start it without torchrun, torchpack or srun",
        )


def _motion_columns(
    data: DataConfig, columns: dict[str, Column]
) -> dict[str, MotionConfig | ResidualConfig]:
    """The columns of motion among the network's features.

    Raises:
        UserError: a feature is another column from files.
    """
    motion = {}
    for name in data.features:
        if name in COLUMN_WIDTHS or name not in columns:
            continue
        settings = columns[name].motion
        if settings is None:
            raise UserError(
                f"the network reads the column '{name}', which lies in files of its own",
                where="data.features",
                cure="A stream gives what the scan's file holds and motion; use evaluate.py predict split:…",
            )
        motion[name] = settings
    return motion


def _check_sweeps(data: DataConfig, section: DatasetConfig) -> None:
    sweeps = section.model_dump().get("multisweeps", {}).get("num_sweeps")
    if data.sweeps and sweeps:
        raise UserError(
            f"the network reads {counted(sweeps, 'sweep')} joined to each scan; a stream gives single scans",
            where="key 'dataset.multisweeps.num_sweeps'",
            cure="Stream a network of single scans, or use evaluate.py predict split:…",
        )


def _check_delay(motion: dict[str, MotionConfig | ResidualConfig], options: StreamOptions) -> None:
    """Refuse features that look farther ahead than predictions may wait."""
    for name, settings in motion.items():
        if settings.delay <= options.delay:
            continue
        ahead = 1e3 * settings.delay * options.period
        raise UserError(
            f"the network's column '{name}' looks {counted(settings.delay, 'scan')} ahead ({ahead:g} ms), and "
            f"predictions may wait for {counted(options.delay, 'scan')}",
            where=f"--delay {options.delay}",
            cure=f"Write --delay {settings.delay}, and each prediction comes so much later; or train a network on "
            "motion: {delay: 0}",
        )

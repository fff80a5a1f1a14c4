"""``evaluate.py stream``: scans in the order in which they come, each predicted before the next, and how long it takes.

Nothing of a scan's future is read but what the network's motion features look at, which is as many scans as ``--delay``
grants. Poses are read as they are written; motion features are made on the way, in place of files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from core.config import Config
from core.contracts import Scan
from core.data import DataConfig, Recipe, collate
from core.data.motion_columns import MotionColumns
from core.data.sample import COLUMN_WIDTHS
from core.datasets import dataset_class
from core.datasets.base import DatasetConfig, ScanDataset
from core.datasets.columns import Column
from core.datasets.live import LiveScan
from core.datasets.motion_config import MotionConfig, ResidualConfig
from core.engine.run.distributed import World, sole_job
from core.engine.run.forward import infer
from core.engine.run.provenance import provenance
from core.engine.run.stopping import STOP
from core.engine.score.evaluation import predict_points
from core.engine.score.latency import Latency
from core.engine.score.opened import Opened
from core.engine.score.prediction import PredictionFolder, view_digest
from core.engine.score.segmenter import Segmenter
from core.engine.score.stream_source import StreamOptions, StreamSource
from core.errors import UserError, counted
from core.io import write_json
from core.sparse import fold_batch_norm

__all__ = ["Streaming", "stream_checkpoint"]


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
    scans = streaming.source.scans(source)
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

    @property
    def source(self) -> StreamSource:
        """Where its scans come from."""
        skip = self.data.on_bad_sample == "skip"
        return StreamSource(self.reader, self.section, self.options, bool(self.motion), skip)

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

"""``evaluate.py --predict``: one file of classes per scan, of a folder of scans or a split of the data set.

A scan's file is written, whole or not at all, as soon as its batch is done; nothing accumulates, and a job that was
killed goes on where it stopped. ``classes.json`` beside the files says what their ids mean.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger

from core.config import Config
from core.contracts import IGNORE
from core.data import DataConfig
from core.data.sensor_record import SensorRecord
from core.datasets import dataset_class
from core.datasets.base import DatasetConfig, ScanDataset, check_split
from core.datasets.benchmark import PredictionFormat, prediction_format
from core.datasets.calibration import CALIBRATION
from core.datasets.folder import FolderConfig, FolderDataset
from core.datasets.point_fields import check_point_fields
from core.decode import read_json
from core.engine.run.context import Context
from core.engine.run.distributed import (
    World,
    barrier,
    join_over_ranks,
    rank_zero_first,
    sum_over_ranks,
)
from core.engine.score.jobs import trained_network
from core.engine.score.segmenter import Segmenter
from core.engine.score.voting import PLAIN, Votes, loader_and_predictor
from core.engine.score.weights import read_network
from core.errors import UserError
from core.io import sha256, write_bytes, write_json
from core.labels import LabelSpace
from core.paths import inside

__all__ = [
    "PredictionFolder",
    "fill_folder",
    "open_source",
    "predict_checkpoint",
]

_SUFFIXES = (".bin", ".npy")


@dataclass(frozen=True)
class PredictionFolder:
    """Where predictions go, and in which form.

    Forms are those of :data:`core.names.FORMATS`. Id 0 is a point outside ``data.point_range``.
    """

    root: Path
    format: str
    labels: LabelSpace

    @property
    def files(self) -> PredictionFormat:
        """How the classes of a scan lie in its file."""
        return prediction_format(self.format)

    def path(self, token: str) -> Path:
        """The file of a scan.

        Raises:
            UserError: its token leads out of the folder.
        """
        return inside(self.root, self.files.path(token))

    def write(self, token: str, classes: np.ndarray) -> None:
        """Write train ids u8 [N], atomically."""
        write_bytes(self.path(token), self.files.encode(classes, self.labels))

    def read(self, token: str) -> np.ndarray:
        """Train ids u8 [N] of a written scan."""
        path = self.path(token)
        return self.files.decode(path.read_bytes(), self.labels, path)

    def begin(self, made_by: dict[str, Any], rank: int) -> None:
        """Write ``classes.json`` (rank 0), or see that the folder holds predictions of this very kind.

        Raises:
            UserError: another checkpoint or other settings have written here.
        """
        path = self.root / "classes.json"
        written = self.files.ids(self.labels)
        names = zip(self.labels.classes, self.labels.colors.tolist(), written)
        classes = [
            {"name": name, "color": color, "id": int(number)} for name, color, number in names
        ]
        record = {"format": self.format, "classes": classes, "made_by": made_by}
        if path.is_file():
            if read_json(path) != record:
                raise UserError(
                    "this folder holds predictions of another checkpoint, format or configuration",
                    where=str(path),
                    cure="Choose another --out, or delete this one",
                )
        elif rank == 0:
            write_json(path, record)


def open_source(config: Config, source: str, point_fields: int | None = None) -> ScanDataset:
    """The scans to predict; labels are never read.

    Args:
        config: names the data set, for its splits or its label space and point format.
        source: ``split:val`` (or train, test), or a folder of ``.bin`` (float32) or ``.npy`` scans, with images where
            it holds a ``calibration.yaml`` (:mod:`core.datasets.calibration`).
        point_fields: values per point in a folder's scans; None = as in the data set.

    Raises:
        UserError: no such split or folder, no scans, or files of another number of values per point.
    """
    reader = dataset_class(config)
    section = config.parse(reader.Config, "dataset")
    kind, _, split = source.partition(":")
    if kind == "split":
        check_split(split)
        return reader(section.model_copy(update={"use_labels": False}), split)
    scans = _open_folder(Path(source), reader, section, point_fields)
    if section.model_dump().get("multisweeps", {}).get("num_sweeps"):
        logger.warning(
            "the network was trained on joined sweeps; each scan of a folder stands alone"
        )
    return scans


def _open_folder(
    root: Path, reader: type[ScanDataset], section: DatasetConfig, point_fields: int | None
) -> FolderDataset:
    """A folder of scans with the classes, and as far as it is known the point format, of a data set."""
    if point_fields is None and isinstance(section, FolderConfig):
        point_fields = section.point_fields
    elif point_fields is None:
        point_fields = reader.point_fields or 4  # a data set may keep its scans in no array at all
    suffix = _only_suffix(root)
    folder = {
        "name": "folder",
        "root": root,
        "scans": f"*{suffix}",
        "point_fields": point_fields,
        "columns": section.columns,
    }
    given = Config({"dataset": folder}, source="--predict")
    scans = FolderDataset(given.parse(FolderConfig, "dataset"), "test")
    scans.labels = reader.label_space(section)
    if suffix == ".bin":
        check_point_fields(scans, point_fields)
    return scans


def _only_suffix(root: Path) -> str:
    """The kind of scans that a folder holds.

    Raises:
        UserError: there is no such folder, or it holds none or both kinds.
    """
    found = "no such folder"
    if root.is_dir():
        kinds = sorted({path.suffix for path in root.iterdir()} & set(_SUFFIXES))
        if len(kinds) == 1:
            return kinds[0]
        found = "both .bin and .npy files" if kinds else "no .bin or .npy files"
    raise UserError(
        f"{found}; expected one folder of scans of one kind",
        where=str(root),
        cure="Give a folder of float32 .bin files or of .npy arrays, or a split of the data set: split:val",
    )


def predict_checkpoint(
    world: World,
    config: Config,
    checkpoint: Path,
    source: str,
    out: Path,
    *,
    format: str | None = None,
    point_fields: int | None = None,
    preview: bool = False,
    votes: Votes = PLAIN,
) -> None:
    """Predict every raw point of ``source`` into ``out``; all ranks share the scans. Prints one line on rank 0.

    Args:
        format: one of :data:`core.names.FORMATS`; None = the label space's own.
        preview: also draw the first scan from above, ``out/preview.png``.
        votes: views of each scan that decide together; by default one plain pass.

    Raises:
        UserError: see :func:`open_source` and :func:`fill_folder`.
    """
    context = Context.open(config, world)
    if out.resolve() == Path(source).resolve():
        raise UserError(
            "predictions would mix with the scans", where=str(out), cure="Choose another --out"
        )
    with rank_zero_first(world):
        scans = open_source(config, source, point_fields)
    form = format or scans.labels.format
    folder = PredictionFolder(out, form, scans.labels)
    fill_folder(context, scans, checkpoint, folder, votes)
    if preview and world.rank == 0:
        _draw(scans, folder)


def fill_folder(
    context: Context,
    scans: ScanDataset,
    checkpoint: Path,
    folder: PredictionFolder,
    votes: Votes,
    finish: Callable[[str, np.ndarray], np.ndarray] | None = None,
) -> None:
    """Predict the scans that ``folder`` lacks; all ranks share them. Prints one line on rank 0.

    Args:
        finish: called with each (token, train ids u8 [N]) before they are written; returns what is.

    Raises:
        UserError: see :func:`core.engine.score.jobs.trained_network` and :meth:`PredictionFolder.begin`.
    """
    world = context.world
    view = _view(context, scans)
    segmenter = Segmenter(
        trained_network(context, scans.labels, checkpoint),
        scans.labels,
        view,
        context.experiment,
        world.device,
        SensorRecord.from_json(read_network(checkpoint).sensor),
    )
    missing = [i for i in range(len(scans)) if not folder.path(scans.token(i)).is_file()]
    barrier()  # every rank has its list before the first file is written
    settings = _digest(context.config, view, votes.settings(context))
    folder.begin({"checkpoint_sha256": sha256(checkpoint), "settings_sha256": settings}, world.rank)
    count, points = 0, 0
    skipped: dict[str, None] = {}
    start = time.perf_counter()
    if missing:
        loader, predict = loader_and_predictor(context, scans, view, votes, missing)
        if world.rank == 0:
            segmenter.compare(scans.load(missing[0], cameras=False))
        for token, classes in segmenter.predict_loader(loader, predict, skipped):
            folder.write(token, classes if finish is None else finish(token, classes))
            count, points = count + 1, points + len(classes)
    totals = torch.tensor([count, points], dtype=torch.float64, device=world.device)
    count, points = sum_over_ranks(totals).tolist()
    seconds = time.perf_counter() - start
    damaged = join_over_ranks(skipped)
    if world.rank == 0:
        for message in damaged:
            logger.warning("not predicted: {}", message)
        before = len(scans) - len(missing)
        there = f" ({before} were there before)" if before else ""
        sys.stdout.write(
            f"{count:.0f} scans predicted{there}, {points / seconds:,.0f} points/s, in {folder.root}\n"
        )
        sys.stdout.flush()


def _view(context: Context, scans: ScanDataset) -> DataConfig:
    """The ``data:`` section, without images where the scans have none."""
    data = context.data
    if data.uses_images(training=False) and not scans.files(0).images:
        if context.world.rank == 0:
            logger.info(
                "no cameras ({} has no {}): the network runs without images",
                scans.root,
                CALIBRATION,
            )
        return data.model_copy(update={"images": False})
    return data


def _digest(config: Config, view: DataConfig, votes: dict[str, Any]) -> str:
    """Of all that changes a prediction besides the weights."""
    settings = [
        config.tree["model"],
        view.model_dump(mode="json"),
        config.tree["dataset"].get("multisweeps"),
    ]
    settings += [votes] if votes else []
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _draw(scans: ScanDataset, folder: PredictionFolder) -> None:
    """``preview.png``: the first scan from above, with the classes it holds."""
    from core.engine.report.pictures import birds_eye, encode_png, legible, side_by_side

    token = scans.token(0)
    if not folder.path(token).is_file():  # a damaged scan that was skipped
        return
    scan, classes = scans.load(0, cameras=False), folder.read(token)
    palette = legible(scans.labels.colors)
    held = [c for c in np.unique(classes) if c != IGNORE]
    panel = (token, birds_eye(scan.xyz[scan.keyframe], palette[classes]))
    sheet = side_by_side([panel], [(scans.labels.classes[c], palette[c]) for c in held])
    write_bytes(folder.root / "preview.png", encode_png(sheet))

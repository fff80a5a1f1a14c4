"""``evaluate.py --predict``: one file of classes per scan, of a folder of scans or a split of the data set.

A scan's file is written, whole or not at all, as soon as its batch is done; nothing accumulates, and a job that was
killed goes on where it stopped. ``classes.json`` beside the files says what their ids mean.
"""

from __future__ import annotations

import glob
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger

from core.config import Config
from core.contracts import IGNORE
from core.data import DataConfig
from core.data.content import scan_stamp
from core.datasets import dataset_class
from core.datasets.base import DatasetConfig, ScanDataset, check_split
from core.datasets.benchmark import PredictionFormat, prediction_format
from core.datasets.calibration import CALIBRATION
from core.datasets.find import contents, find_files
from core.datasets.folder import FolderConfig, FolderDataset
from core.datasets.scan_columns import ColumnsConfig
from core.datasets.scan_formats import SCAN_FORMATS, check_scan_file, has_fixed_rows, stem_of
from core.decode import read_json
from core.engine.run.context import Context
from core.engine.run.distributed import (
    World,
    barrier,
    from_rank_zero,
    join_over_ranks,
    rank_zero_first,
    sole_job,
    sum_over_ranks,
)
from core.engine.score.opened import Opened
from core.engine.score.segmenter import Segmenter
from core.engine.score.voting import PLAIN, Votes, loader_and_predictor
from core.errors import UserError, counted
from core.io import write_bytes, write_json
from core.labels import LabelSpace
from core.paths import inside

__all__ = [
    "PredictionFolder",
    "default_out",
    "fill_folder",
    "open_source",
    "predict_checkpoint",
]


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

    def missing(self, stamps: Mapping[str, str]) -> list[int]:
        """Positions of the scans that have no file here, or one that was made when the scan was another.

        Args:
            stamps: token -> what the scan's files hold, in the data set's order.
        """
        known = self._known().get("scans", {})
        missing = []
        for index, (token, stamp) in enumerate(stamps.items()):
            if not self.path(token).is_file() or known.get(token, stamp) != stamp:
                missing.append(index)
        return missing

    def begin(self, made_by: dict[str, Any], stamps: Mapping[str, str], rank: int) -> None:
        """Write ``classes.json`` (rank 0), or see that the folder holds predictions of this very kind.

        Predictions of scans that have changed since are removed.

        Args:
            stamps: see :meth:`missing`; those of scans that are gone stay.

        Raises:
            UserError: another checkpoint or other settings have written here.
        """
        written = self.files.ids(self.labels)
        names = zip(self.labels.classes, self.labels.colors.tolist(), written)
        classes = [
            {"name": name, "color": color, "id": int(number)} for name, color, number in names
        ]
        record = {"format": self.format, "classes": classes, "made_by": made_by}
        known = self._known()
        scans = known.pop("scans", {})
        earlier = {key: value for key, value in made_by.items() if key != "dataset"}
        if known not in ({}, record, record | {"made_by": earlier}):
            raise UserError(
                "this folder holds predictions of another checkpoint, format or configuration",
                where=str(self._record),
                cure="Choose another --out, or delete this one",
            )
        if rank > 0:
            return
        changed = [token for token, stamp in stamps.items() if scans.get(token, stamp) != stamp]
        for (
            token
        ) in changed:  # before the new stamps: a kill must leave no file under another scan's stamp
            self.path(token).unlink(missing_ok=True)
        if changed:
            verb = "has" if len(changed) == 1 else "have"
            what = f"{counted(len(changed), 'scan')} {verb} changed"
            logger.info("{} since the last time and will be predicted again: {}", what, changed[:3])
        now = record | {"scans": {**scans, **stamps}}
        if now != self._known():
            write_json(self._record, now)

    @property
    def _record(self) -> Path:
        return self.root / "classes.json"

    def _known(self) -> dict[str, Any]:
        """``classes.json``; empty where there is none yet."""
        if not self._record.is_file():
            return {}
        return read_json(self._record, dict[str, Any])


def open_source(config: Config, source: str, point_fields: int | None = None) -> ScanDataset:
    """The scans to predict; labels are never read.

    Args:
        config: names the data set, for its splits or its label space and point format.
        source: ``split:val`` (or train, test), a scan, or a folder of scans (:mod:`core.datasets.scan_formats`), with
            images where it holds a ``calibration.yaml`` (:mod:`core.datasets.calibration`).
        point_fields: values per point in ``.bin`` and plain ``.npy`` scans; None = as in the data set.

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
    source: Path, reader: type[ScanDataset], section: DatasetConfig, point_fields: int | None
) -> FolderDataset:
    """Scans with the classes, the scanner and, as far as they are known, the columns of a data set."""
    root, scans = _scans_of(source)
    keys: dict[str, Any] = {}
    if isinstance(section, FolderConfig):
        keys = section.model_dump(include={"point_fields", *ColumnsConfig.model_fields})
    elif reader.point_fields:  # 0 where a data set keeps its scans in no array at all
        keys["point_fields"] = reader.point_fields
    if point_fields is not None:
        if not has_fixed_rows(Path(scans)) and Path(scans).suffix != ".npy":
            raise UserError(
                "files of this kind say themselves which values a point has",
                where=f"--point-fields {point_fields}, {source}",
                cure="Leave --point-fields out; dataset.point_columns names columns",
            )
        keys["point_fields"] = point_fields
    folder = {"name": "folder", "root": root, "scans": scans, "columns": section.columns} | keys
    given = Config({"dataset": folder}, source="--predict")
    found = FolderDataset(given.parse(FolderConfig, "dataset"), "test")
    found.labels = reader.label_space(section)
    found.sensor = section.sensor.over(reader.sensor)
    _check_rows(found, found.config.point_fields)
    return found


def _check_rows(scans: FolderDataset, fields: int) -> None:
    """Look at the first scan, and at those whose size alone shows that they have other values per point."""
    for index in range(len(scans)):
        path = scans.files(index).points
        if index == 0 or (has_fixed_rows(path) and path.stat().st_size % (4 * fields)):
            check_scan_file(path, fields)


def _scans_of(source: Path) -> tuple[Path, str]:
    """The folder of the scans that a person names, and the pattern of their names.

    Raises:
        UserError: there is no such file or folder, or it holds no scans, or scans of several kinds.
    """
    if source.is_file():
        if source.suffix.lower() in SCAN_FORMATS:
            return source.parent, glob.escape(source.name)
        raise UserError(
            f"scans end in {', '.join(SCAN_FORMATS)}; this file does not", where=str(source)
        )
    found = "no such file or folder"
    if source.is_dir():
        kinds = {path.suffix.lower() for path in find_files(source, "*")} & set(SCAN_FORMATS)
        if len(kinds) == 1:
            return source, f"*{kinds.pop()}"
        found = f"no scans; {contents(source)}"
        if kinds:
            found = f"both {' and '.join(sorted(kinds))} files"
    raise UserError(
        f"{found}; expected a scan or one folder of scans of one kind",
        where=str(source),
        cure=f"Give {', '.join(SCAN_FORMATS)} files, or a split of the data set: split:val",
    )


def default_out(run: Path, source: str) -> Path:
    """Where predictions go unless told: ``<run>/predictions/<name>`` of a split, a folder or a scan."""
    kind, _, split = source.partition(":")
    if kind == "split":
        return run / "predictions" / split
    return run / "predictions" / stem_of(Path(source).resolve())


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
    opened = Opened.of(world, config, checkpoint)
    if out.resolve() == Path(source).resolve():
        raise UserError(
            "predictions would mix with the scans", where=str(out), cure="Choose another --out"
        )
    with rank_zero_first(world):
        scans = open_source(opened.context.config, source, point_fields)
    form = format or scans.labels.format
    folder = PredictionFolder(out, form, scans.labels)
    with sole_job(world, out, "--out"):
        fill_folder(opened, scans, folder, votes)
        if preview and world.rank == 0:
            _draw(scans, folder)


def fill_folder(
    opened: Opened,
    scans: ScanDataset,
    folder: PredictionFolder,
    votes: Votes,
    finish: Callable[[str, np.ndarray], np.ndarray] | None = None,
) -> None:
    """Predict the scans that ``folder`` lacks; all ranks share them. Prints one line on rank 0.

    Args:
        finish: called with each (token, train ids u8 [N]) before they are written; returns what is.

    Raises:
        UserError: see :meth:`Opened.network` and :meth:`PredictionFolder.begin`.
    """
    context = opened.context
    world = context.world
    view = _view(context, scans)
    network = opened.network(scans.labels)
    segmenter = Segmenter(network, scans.labels, view, context.experiment, world.device)
    stamps = _stamps(scans, view)
    missing = from_rank_zero(lambda: folder.missing(stamps))
    made_by = {
        "checkpoint_sha256": opened.found.sha256,
        "settings_sha256": _digest(context.config, view, votes.settings(context)),
        "dataset": scans.title,
    }
    folder.begin(made_by | opened.record, stamps, world.rank)
    barrier()  # what was made of scans that have changed is gone before others write
    count, points = 0, 0
    skipped: dict[str, None] = {}
    start = time.perf_counter()
    if missing:
        loader, predict = loader_and_predictor(context, scans, view, votes, missing)
        opened.compare_scans(scans)
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
        if not count and missing and damaged:
            raise UserError(
                f"not one of {counted(len(missing), 'scan')} could be read, so nothing was predicted",
                where=str(scans.root),
                cure="The warnings above name what is damaged",
            )
        before = len(scans) - len(missing)
        there = f" ({before} were there before)" if before else ""
        sys.stdout.write(
            f"{counted(int(count), 'scan')} predicted{there}, {points / seconds:,.0f} points/s, in {folder.root}\n"
        )
        sys.stdout.flush()


def _stamps(scans: ScanDataset, view: DataConfig) -> dict[str, str]:
    """Token -> what the scan's files hold, in 64 bits: ``classes.json`` is read by people too."""
    images = view.uses_images(training=False)
    stamps = {}
    for index in range(len(scans)):
        stamps[scans.token(index)] = scan_stamp(scans, index, images)[:16]
    return stamps


def _view(context: Context, scans: ScanDataset) -> DataConfig:
    """The ``data:`` section, without images where the scans have no cameras.

    Raises:
        UserError: they have cameras, and an image or the calibration is missing or damaged.
    """
    data = context.data
    if data.uses_images(training=False) and data.on_bad_sample != "skip":
        scans.check_images()
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
    legend = [(scans.labels.classes[c], palette[c]) for c in held]
    sheet = side_by_side([panel], legend, scans.title)
    write_bytes(folder.root / "preview.png", encode_png(sheet))

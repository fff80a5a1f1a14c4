"""``evaluate.py --predict``: one file of classes per scan, of a folder of scans or a split of the data set.

A scan's file is written, whole or not at all, as soon as its batch is done; nothing accumulates, and a job that was
killed goes on where it stopped. ``classes.json`` beside the files says what their ids mean.
"""

from __future__ import annotations

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
from core.datasets.base import ScanDataset
from core.datasets.benchmark import PredictionFormat, prediction_format
from core.datasets.calibration import CALIBRATION
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
from core.engine.score.source import open_source
from core.engine.score.voting import PLAIN, Votes, loader_and_predictor
from core.errors import UserError, counted
from core.io import write_bytes, write_json
from core.labels import LabelSpace
from core.paths import inside

__all__ = ["PredictionFolder", "fill_folder", "predict_checkpoint", "view_digest", "view_of"]


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
    view = view_of(context, scans)
    network = opened.network(scans.labels)
    segmenter = Segmenter(network, scans.labels, view, context.experiment, world.device)
    stamps = _stamps(scans, view)
    missing = from_rank_zero(lambda: folder.missing(stamps))
    made_by = {
        "checkpoint_sha256": opened.found.sha256,
        "settings_sha256": view_digest(context.config, view, votes.settings(context)),
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


def view_of(context: Context, scans: ScanDataset) -> DataConfig:
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


def view_digest(config: Config, view: DataConfig, votes: dict[str, Any]) -> str:
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

"""From files of predictions to pictures: what moves in the scans of a sequence, and what of it was found."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from loguru import logger
from tqdm import tqdm

from core.config import Config
from core.datasets import build_dataset
from core.datasets.base import ScanDataset
from core.engine.report.animation import Animation, encode_animation
from core.engine.report.moving_page import MovingCounts, MovingView, write_moving_page
from core.engine.report.outcomes import outcomes, scan_from_above, titled
from core.engine.report.pictures import encode_png
from core.engine.score.moving import MovingScore, moving_class, moving_score
from core.engine.score.moving_files import prediction_path, read_prediction, truth_of
from core.errors import UserError, counted
from core.io import write_bytes
from core.metrics import Confusion

__all__ = ["PAGE", "Chosen", "show_moving"]

PAGE = "moving.html"  # in the folder of the output, beside a folder of pictures for each sequence
_FILM_SCALE = 0.6  # of the pictures' size: films are large
_FILM_FRAMES = 400  # at most, 1 MB each in memory


@dataclass(frozen=True)
class Chosen:
    """Which scans of a split are shown.

    Attributes:
        sequence: its name; None = all. first: how many are passed over. count: at most so many. every: one in so many.
    """

    sequence: str | None = None
    first: int = 0
    count: int = 200
    every: int = 1

    def of(self, scans: ScanDataset, folder: Path) -> list[int]:
        """Positions of the scans that have predictions.

        Raises:
            UserError: there are none, or no such sequence.
        """
        wanted = list(range(len(scans)))
        if self.sequence is not None:
            wanted = [index for index in wanted if scans.scene(index) == self.sequence]
        if not wanted:
            names = sorted({scans.scene(index) for index in range(len(scans))})
            raise UserError(
                f"the {scans.split} split has no sequence '{self.sequence}'",
                where="--sequence",
                cure=f"It has {', '.join(names)}",
            )
        there = [index for index in wanted if prediction_path(folder, scans, index).is_file()]
        if len(there) < len(wanted):
            _tell_missing(len(there), len(wanted), prediction_path(folder, scans, wanted[0]))
        shown = there[self.first :: self.every]
        if not shown:
            raise UserError(
                f"there are {counted(len(there), 'scan')} with predictions, and the first {self.first} are passed over",
                where="--first",
                cure="Give a smaller number",
            )
        if len(shown) > self.count:
            logger.info("{} of {} scans are shown, see --count", self.count, len(shown))
        return shown[: self.count]


def _tell_missing(there: int, wanted: int, example: Path) -> None:
    if not there:
        raise UserError(
            f"no file of predictions for {counted(wanted, 'scan')}",
            where=str(example),
            cure="Name the folder that holds sequences/NN/predictions, or predict: evaluate.py predict split:val",
        )
    logger.warning("{} of {} scans have no predictions and are left out", wanted - there, wanted)


def show_moving(
    folder: Path,
    config: Config,
    split: str,
    out: Path,
    chosen: Chosen,
    *,
    extent: float = 50.0,
    film: Animation | None = "webp",
    rate: float = 10.0,
) -> MovingScore:
    """Write ``moving.html``, a PNG of each scan and a film of them; return the score of what is shown.

    Args:
        folder: ``sequences/NN/predictions/NNNNNN.label``, u32 raw ids, a row per point of the scan; or a run folder
            whose ``predictions/<split>`` is such a one.
        config: its ``dataset`` names scans and classes. out: folder of the output.
        extent: m from the sensor to each edge of a picture. film: kind of the film; None = no film.
        rate: scans per second of the film.

    Raises:
        UserError: there are no predictions, one is damaged or of another number of points, a scan has no labels, or no
            class is called "moving".
    """
    scans = build_dataset(config, split)
    moving = moving_class(scans.labels)
    if moving is None:
        raise UserError(
            f"none of the classes {', '.join(scans.labels.classes)} is called 'moving'",
            where="--labels",
            cure="Choose semantickitti_movable or semantickitti_mos",
        )
    folder = _predictions_of(folder, split)
    indices = chosen.of(scans, folder)
    confusion = Confusion(scans.labels.num_classes)
    views, pictures = [], []
    note = f"{scans.title}, {split} split"
    shown = tqdm(indices, unit="scan", disable=not sys.stderr.isatty())
    for view, picture in _views(folder, scans, shown, moving, extent, confusion):
        views.append(view)
        pictures.append(out / f"{view.token}.png")
        write_bytes(pictures[-1], encode_png(titled(picture, _line(view), note)))
    if film is not None:
        write_bytes(out / f"moving.{film}", _film(pictures, film, rate))
    overall = moving_score(confusion, moving)
    tokens = f"{views[0].token} to {views[-1].token}"
    write_moving_page(
        out / PAGE,
        views,
        _counts(overall),
        title=f"What moves in {scans.title}",
        facts=f"{counted(len(views), 'scan')} of the {split} split, {tokens}; predictions in {folder}",
    )
    return overall


def _predictions_of(folder: Path, split: str) -> Path:
    """The folder of predictions, which may be given as that of the run that made them."""
    inner = folder / "predictions" / split
    if not (folder / "sequences").is_dir() and inner.is_dir():
        return inner
    return folder


def _views(
    folder: Path,
    scans: ScanDataset,
    indices: Iterable[int],
    moving: int,
    extent: float,
    overall: Confusion,
) -> Iterator[tuple[MovingView, np.ndarray]]:
    """The view of each scan and its picture, u8 RGB; its points are added to ``overall``."""
    for index in indices:
        scan = scans.read(index, cameras=False)
        predicted = read_prediction(prediction_path(folder, scans, index), scan, scans)
        truth = truth_of(scan, scans)
        confusion = Confusion(scans.labels.num_classes)
        for matrix in (confusion, overall):
            matrix.update(torch.from_numpy(predicted).long(), torch.from_numpy(truth).long())
        points = scan.sensor.seen(scan.xyz)
        picture = scan_from_above(points, outcomes(truth, predicted, moving), extent)
        counts = _counts(moving_score(confusion, moving))
        yield MovingView(scan.token, encode_png(picture), counts), picture


def _counts(score: MovingScore) -> MovingCounts:
    return MovingCounts(score.hits, score.false, score.missed, score.to_json())


def _line(view: MovingView) -> str:
    """The title of a picture."""
    told = [view.token]
    for name, value in view.counts.scores.items():
        shown = "none" if value is None else f"{value:.1f}"
        told.append(f"{'IoU' if name == 'iou' else name} {shown}")
    counts = view.counts
    told.append(f"TP {counts.hits}  FP {counts.false}  FN {counts.missed}")
    return "   ".join(told)


def _film(pictures: Sequence[Path], kind: Animation, rate: float) -> bytes:
    """The pictures as a film; of a long sequence one in so many, since all its frames are in memory at once."""
    every = math.ceil(len(pictures) / _FILM_FRAMES)
    if every > 1:
        logger.info("the film shows one in {} scans", every)
    frames = [_smaller(path) for path in pictures[::every]]
    return encode_animation(frames, kind, rate / every)


def _smaller(path: Path) -> np.ndarray:
    """A frame of the film from the picture of a scan, u8 RGB."""
    from PIL import Image

    with Image.open(path) as found:
        picture = found.convert("RGB")
    size = (round(picture.width * _FILM_SCALE), round(picture.height * _FILM_SCALE))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))

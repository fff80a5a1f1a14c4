"""What moves in the prediction files of any method, against the labels of a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from core.config import Config
from core.contracts import Scan
from core.datasets import build_dataset
from core.datasets.base import ScanDataset
from core.datasets.benchmark import prediction_format
from core.decode import read_bytes
from core.engine.run.provenance import provenance
from core.engine.score.moving import SequenceCounts, moving_class, with_moving
from core.errors import UserError, counted
from core.metrics import EvaluationResult, SegmentationScore
from core.paths import inside

__all__ = ["prediction_path", "read_prediction", "score_files", "truth_of"]


def score_files(folder: Path, config: Config, split: str) -> EvaluationResult:
    """Score ``sequences/NN/predictions/NNNNNN.label`` files, u32 raw ids, a row per point of the scan.

    Args:
        config: its ``dataset`` names scans and classes.

    Raises:
        UserError: a file is missing, damaged, has another number of points, or holds an id that is no class; or no
            class is called "moving".
    """
    scans = build_dataset(config, split)
    if moving_class(scans.labels) is None:
        raise UserError(
            f"none of the classes {', '.join(scans.labels.classes)} is called 'moving'",
            where="--labels",
            cure="Choose semantickitti_movable or semantickitti_mos",
        )
    paths = _paths(folder, scans)
    score = SegmentationScore(scans.labels.num_classes)
    sequences = SequenceCounts(scans)
    points = 0
    for index, path in enumerate(tqdm(paths, unit="scan", disable=None)):
        scan = scans.read(index, cameras=False)
        predicted = torch.from_numpy(read_prediction(path, scan, scans)).long()
        truth = torch.from_numpy(truth_of(scan, scans)).long()
        distance = np.linalg.norm(scan.sensor.seen(scan.xyz), axis=1)
        score.update(predicted, truth, torch.from_numpy(distance))
        sequences.add(torch.full_like(truth, sequences.number_of(index)), truth, predicted)
        points += len(truth)
    known: dict[str, Any] = {"seconds": 0.0, "checkpoint": str(folder), "checkpoint_sha256": ""}
    result = EvaluationResult.from_score(
        score,
        dataset=scans.title,
        split=split,
        classes=scans.labels.classes,
        made_up=scans.made_up,
        split_scans=scans.expected or len(scans),
        num_scans=len(scans),
        num_points=points,
        **provenance(),
        **known,
    )
    return with_moving(result, sequences.by_name(), scans)


def prediction_path(folder: Path, scans: ScanDataset, index: int) -> Path:
    """The file of a scan's predictions, ``sequences/NN/predictions/NNNNNN.label``, whether or not it exists."""
    return inside(folder, prediction_format("semantickitti").path(scans.token(index)))


def _paths(folder: Path, scans: ScanDataset) -> list[Path]:
    """The file of each scan; all are there."""
    paths = [prediction_path(folder, scans, index) for index in range(len(scans))]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{counted(len(missing), 'file')} of {len(paths)} missing, the first is {missing[0]}",
            where=str(folder),
            cure=f"Predict the whole {scans.split} split; scores of a part do not compare",
        )
    return paths


def read_prediction(path: Path, scan: Scan, scans: ScanDataset) -> np.ndarray:
    """Train ids u8 [N] of a scan from a file of predictions, u32 raw ids.

    Raises:
        UserError: the file is damaged, has another number of points, or holds an id that is no class.
    """
    content = read_bytes(path, "file of predictions")
    classes = prediction_format("semantickitti").decode(content, scans.labels, path)
    if len(classes) != len(scan.points):
        raise UserError(
            f"{counted(len(classes), 'prediction')} for the {counted(len(scan.points), 'point')} of scan {scan.token}",
            where=str(path),
            cure="Write one for each point, also for those out of range",
        )
    return classes


def truth_of(scan: Scan, scans: ScanDataset) -> np.ndarray:
    """Train ids u8 [N] of a scan's labels.

    Raises:
        UserError: it has none.
    """
    if scan.labels is None:
        raise UserError(
            f"scan {scan.token} has no labels to compare with",
            where=str(scans.root),
            cure="Score the val split; labels of the test split lie on the benchmark's server",
        )
    return scan.labels

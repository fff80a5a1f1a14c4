"""What a training knows of its scans: which have labels, what is new in the others, what a run must find again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from core.data import DataConfig
from core.data.labelled import absent_classes
from core.data.sensor_record import SensorRecord, first_scans, worst_differences
from core.datasets.base import ScanDataset
from core.datasets.training import TrainingScans
from core.errors import UserError
from core.io import write_text

__all__ = ["check_same_scans", "record_of", "scans_identity", "tell_of_scans", "write_labelled"]


def record_of(train_set: ScanDataset, data: DataConfig) -> SensorRecord | None:
    """What the scans with labels look like in a view; None where those looked at are damaged and may be skipped."""
    rows = None if train_set.budget is None else np.flatnonzero(train_set.budget)
    records = [record for _, record in first_scans(train_set, rows, data.beams)]
    return SensorRecord.joined(records) if records else None


def tell_of_scans(train_set: ScanDataset, record: SensorRecord | None, data: DataConfig) -> None:
    """Warn of classes that no labelled scan has, and of scenes that another scanner has seen.

    Args:
        record: of :func:`record_of` in the view ``data``.
    """
    if not isinstance(train_set, TrainingScans):
        return
    absent = absent_classes(train_set) if train_set.config.use_labels else []
    if absent:
        logger.warning(
            "no labelled scan has a point of {}: these classes will not be learnt from labels",
            ", ".join(absent),
        )
    scenes = train_set.rows_of("scenes")
    if record is None or not len(scenes):
        return
    looked_at = first_scans(train_set, scenes, data.beams)
    divisor = data.intensity_divisor
    for sentence in worst_differences(record, looked_at, divisor, divisor):
        logger.warning("dataset.unlabelled_scenes: {}", sentence)


def scans_identity(train_set: ScanDataset) -> dict[str, str]:
    """Which scans a run learns from, for its checkpoints; empty where the configuration says it all."""
    if not isinstance(train_set, TrainingScans):
        return {}
    identity = {"labelled": train_set.labelled_digest, "unlabelled": train_set.unlabelled_digest}
    if train_set.pseudo is not None:
        identity["pseudo_labels"] = train_set.pseudo.digest
    return identity


def check_same_scans(old: dict[str, Any], new: dict[str, Any], run_path: Path) -> None:
    """Refuse other scans or pseudo-labels; the configuration knows but the names of lists and folders.

    Raises:
        UserError: there are some.
    """
    if old.get("labelled") != new.get("labelled"):
        raise UserError(
            "this run was started with other labelled scans",
            where=f"{run_path}, key 'dataset.labelled'",
            cure="Name the scans of labelled.txt there again, or choose another --run-dir",
        )
    if old.get("pseudo_labels") != new.get("pseudo_labels"):
        raise UserError(
            "this run was started with other pseudo-labels",
            where=f"{run_path}, key 'dataset.pseudo_labels'",
            cure="Give the folder its labels back, or choose another --run-dir",
        )
    if old.get("unlabelled") not in (None, new.get("unlabelled")):  # None: an older run
        raise UserError(
            "this run was started with other unlabelled scans",
            where=f"{run_path}, key 'dataset.unlabelled'",
            cure="Give its folders the scans they had, or choose another --run-dir",
        )


def write_labelled(train_set: ScanDataset, run_path: Path) -> None:
    """Write the tokens of the scans with labels into ``labelled.txt``, where not all scans have them.

    What ``dataset.drop_static`` has left goes into ``drop_static.txt``, with its moving points.
    """
    if not isinstance(train_set, TrainingScans):
        return
    write_text(run_path / "labelled.txt", "\n".join(train_set.labelled_tokens) + "\n")
    if train_set.dropped is not None:
        write_text(run_path / "drop_static.txt", train_set.dropped.text())

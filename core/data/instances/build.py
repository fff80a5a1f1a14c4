"""Cuts the instances out of the scans of a training split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.config import Config
from core.contracts import Scan
from core.data.config import DataConfig
from core.data.content import split_stamp
from core.data.instances.database import Database, index_dtype
from core.data.instances.tables import thing_rules
from core.data.instances.writer import CONTENT, Part, write_database
from core.data.paste_config import ThingRule
from core.datasets import build_dataset, dataset_class
from core.datasets.base import ScanDataset
from core.datasets.official import check_complete
from core.errors import UserError

__all__ = [
    "anchors",
    "build_database",
    "default_folder",
    "extract",
    "rules_of",
    "smallest",
    "training_scans",
]

_SCANS_PER_PART = 32  # a half-finished database goes on with it, whatever the number of processes


def build_database(config: Config, out: Path | None = None, workers: int = 1) -> Database:
    """Write the instances of the training split, or find them written.

    Args:
        workers: processes. config: ``dataset:`` names the scans, ``data.paste`` (if there) the folder and the rules.
        out: None = ``data.paste.database``, or ``inst_database_train`` in the data set's root.

    Raises:
        UserError: the data set has no instances or is damaged, or ``out`` holds something else.
    """
    dataset = training_scans(config)
    rules = rules_of(config, dataset)
    tokens = [dataset.token(i) for i in range(len(dataset))]
    identity = {
        "source": "scans",
        "dataset": dataset_class(config).title,
        "scans": len(dataset),
        "tokens": hashlib.sha256("\n".join(tokens).encode()).hexdigest(),
        CONTENT: split_stamp(dataset, images=False),
        "labels": dataset.labels.fingerprint,
        "min_points": smallest(rules, dataset),
    }
    work = _Cutter(dataset, rules)
    scans = range(len(dataset))
    tasks = [scans[k : k + _SCANS_PER_PART] for k in scans[::_SCANS_PER_PART]]
    folder = default_folder(config, dataset) if out is None else out
    return write_database(folder, identity, dataset.labels, tuple(rules), work, tasks, workers)


def training_scans(config: Config) -> ScanDataset:
    """Open the scans of the training split that have labels, with instances, without sweeps."""
    config = deepcopy(config)
    keys = dataset_class(config).Config.model_fields
    wanted: dict[str, Any] = {
        "use_labels": True,
        "instances": True,
        "multisweeps": {"num_sweeps": 0},
        "unlabelled": "none",
    }
    known = {key: value for key, value in wanted.items() if key in keys}
    config.merge(known, "prepare_inst_database.py", "dataset")
    scans = build_dataset(config, "train")
    check_complete(scans)
    return scans


def rules_of(config: Config, dataset: ScanDataset) -> dict[int, ThingRule]:
    """Return thing rules by train id, as far as ``data.paste`` sets them, else the label space's."""
    return thing_rules(dataset.labels, config.parse(DataConfig, "data").paste)


def default_folder(config: Config, dataset: ScanDataset) -> Path:
    """Return ``data.paste.database``, or a folder in the data set's root."""
    paste = config.parse(DataConfig, "data").paste
    if paste is None:
        return dataset.root / "inst_database_train"
    return paste.database


def smallest(rules: Mapping[int, ThingRule], dataset: ScanDataset) -> dict[str, int]:
    """Return the number of points of the smallest instance wanted, by class name."""
    return {dataset.labels.classes[c]: rule.min_points for c, rule in rules.items()}


@dataclass(frozen=True)
class _Cutter:
    """Makes the part of a range of scans."""

    dataset: ScanDataset
    rules: dict[int, ThingRule]

    def __call__(self, scans: range) -> Part:
        parts = [extract(self.dataset.load(i, cameras=False), self.rules) for i in scans]
        width = max(part.index.dtype["token"].itemsize for part in parts)
        return Part(
            points=np.concatenate([part.points for part in parts]),
            index=np.concatenate([part.index.astype(index_dtype(width)) for part in parts]),
            small=sum(part.small for part in parts),
        )


def extract(scan: Scan, rules: Mapping[int, ThingRule]) -> Part:
    """Cut out every (class, instance) of the keyframe's own points with enough of them, ordered by that pair.

    Instance numbers alone do not do: SemanticKITTI uses one number for several classes.

    Raises:
        UserError: the scan has no labels or no instance numbers.
    """
    if scan.labels is None or scan.instances is None:
        raise UserError(
            f"scan {scan.token} has no instance numbers",
            cure="An instance database needs them: nuScenes has them in nuScenes-panoptic-v1.0-all.tar.gz, "
            "SemanticKITTI in the upper 16 bits of its labels",
        )
    limits = np.zeros(256, np.int64)
    limits[list(rules)] = [rule.min_points for rule in rules.values()]
    wanted = scan.keyframe & (limits[scan.labels] > 0) & (scan.instances != 0)
    rows = np.flatnonzero(wanted)
    pairs = scan.labels[rows].astype(np.int64) << 32 | scan.instances[rows]
    found, inverse, counts = np.unique(pairs, return_inverse=True, return_counts=True)
    large = counts >= limits[found >> 32]
    rows = rows[np.argsort(inverse, kind="stable")][np.repeat(large, counts)]
    points = np.column_stack([scan.xyz[rows], scan.intensity[rows]]).astype(np.float32, copy=False)
    token = scan.token.encode()
    index = np.zeros(int(large.sum()), index_dtype(len(token)))
    index["cls"] = found[large] >> 32
    index["instance"] = found[large] & 0xFFFFFFFF
    index["count"] = counts[large]
    index["token"] = token
    anchors(points, index)
    return Part(points, index, small=int((~large).sum()))


def anchors(points: np.ndarray, index: np.ndarray) -> None:
    """Fill in ``anchor``, ``azimuth`` and ``range`` of instances that lie one after the other in ``points`` [n, 4]."""
    if not len(index):
        return
    counts = index["count"].astype(np.int64)
    starts = np.cumsum(counts) - counts
    total = np.add.reduceat(points[:, :2].astype(np.float64), starts, axis=0)
    x, y = (total / counts[:, None]).T
    index["anchor"] = np.column_stack([x, y, np.minimum.reduceat(points[:, 2], starts)])
    index["azimuth"] = np.arctan2(y, x)
    index["range"] = np.hypot(x, y)

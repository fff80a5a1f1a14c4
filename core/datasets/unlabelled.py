"""Puts a training split together: scans with labels, and those without that ``dataset.unlabelled`` asks for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path

import numpy as np
from loguru import logger

from core.config import Config
from core.datasets.base import DatasetConfig, ScanDataset
from core.datasets.budget import labelled_scans
from core.datasets.pseudo import PseudoLabels
from core.datasets.static_scans import drop_static
from core.datasets.training import Part, PartKind, TrainingScans
from core.errors import UserError, counted
from core.io import file_stamp

__all__ = ["training_scans"]

Opener = Callable[[Config, str], ScanDataset]
_SCENES = "dataset.unlabelled_scenes"


def training_scans(config: Config, section: DatasetConfig, open_split: Opener) -> TrainingScans:
    """The training split with its label budget and its unlabelled scans.

    Args:
        section: ``dataset:`` of the configuration.
        open_split: opens a split of a configuration with all its scans.

    Raises:
        UserError: the budget leaves no scan with labels, no class moves where static scans are to be dropped, the data
            set has no sweeps, or nothing is left of the unlabelled scenes.
    """
    labelled = split = open_split(config, "train")
    rows = _budgeted(labelled, section)
    dropped = None
    if section.drop_static is not None and section.use_labels:
        dropped = drop_static(labelled, rows, section.drop_static)
        rows = np.array([labelled.index_of(token) for token in dropped.tokens], np.int64)
    parts = [Part("labelled", labelled, rows)]
    order = np.arange(len(parts[0].rows))
    if "rest" in section.unlabelled:
        split = open_split(_without_labels(config), "train")
        parts.append(_rest(split, parts[0], () if dropped is None else dropped.dropped))
        order = _order_of_split(split, parts)
    if "sweeps" in section.unlabelled:
        bare = open_split(_without_labels(config), "train")
        parts.append(_all("sweeps", bare.between()))
    if "scenes" in section.unlabelled:
        parts.append(_scenes(config, section, parts, open_split))
    scans = TrainingScans(labelled, split, parts, order)
    scans.dropped = dropped
    if section.pseudo_labels is not None and len(parts) > 1:
        least = section.pseudo_confidence
        digest = scans.labelled_digest
        scans.pseudo = PseudoLabels.open(section.pseudo_labels, least, labelled.labels, digest)
    return scans


def _without_labels(config: Config) -> Config:
    """The same scans, of which no label is read."""
    changed = deepcopy(config)
    changed.merge({"use_labels": False}, "dataset.unlabelled", "dataset")
    return changed


def _all(kind: PartKind, scans: ScanDataset) -> Part:
    return Part(kind, scans, np.arange(len(scans)))


def _tokens(part: Part) -> list[str]:
    return [part.scans.token(row) for row in part.rows.tolist()]


def _budgeted(labelled: ScanDataset, section: DatasetConfig) -> np.ndarray:
    """Positions i64 of the scans that keep their labels."""
    if section.labelled is None:
        return np.arange(len(labelled))
    tokens = [labelled.token(row) for row in range(len(labelled))]
    scenes = [labelled.scene(row) for row in range(len(labelled))]
    return np.flatnonzero(labelled_scans(section.labelled, tokens, scenes))


def _rest(split: ScanDataset, labelled: Part, dropped: Iterable[str]) -> Part:
    """All other scans of the split but those that were dropped."""
    taken = {*_tokens(labelled), *dropped}
    rows = [row for row in range(len(split)) if split.token(row) not in taken]
    return Part("rest", split, np.array(rows, np.int64))


def _order_of_split(split: ScanDataset, parts: Iterable[Part]) -> np.ndarray:
    """Order i64 in which the scans of the parts, one after the other, follow each other in the split."""
    places: list[int] = []
    for part in parts:
        places += [split.index_of(token) for token in _tokens(part)]
    return np.argsort(places)


def _scenes(
    config: Config, section: DatasetConfig, parts: Iterable[Part], open_split: Opener
) -> Part:
    """Scans of ``dataset.unlabelled_scenes`` that the training does not have yet, and that it is not validated on."""
    scans = open_split(_config_of_scenes(config), section.unlabelled_split)
    validation = _all("scenes", open_split(_without_labels(config), "val"))
    points = _point_files(_all("scenes", scans))
    trained = [path for part in parts for path in _point_files(part)]
    twice = _alike(points, trained)
    validated = _alike(points, _point_files(validation))
    left_out = int((twice | validated).sum())
    if left_out:
        logger.warning(
            "{}: {} are left out: {} are in the training already, {} are validation scans",
            _SCENES,
            counted(left_out, "scan"),
            twice.sum(),
            validated.sum(),
        )
    rows = np.flatnonzero(~twice & ~validated)
    if not len(rows):
        raise UserError(
            f"all {len(scans)} scans are in the training already, or are those it is validated on",
            where=f"{scans.root}, key '{_SCENES}'",
            cure="Name other scans; for those of the split itself set dataset.unlabelled: rest",
        )
    return Part("scenes", scans, rows)


def _config_of_scenes(config: Config) -> Config:
    """The configuration whose ``dataset`` section names the scenes; another reader shares no key with this one."""
    changed = deepcopy(config)
    given, ours = changed.section(_SCENES), changed.tree["dataset"]
    if given.get("name", ours["name"]) != ours["name"]:
        changed.tree["dataset"] = {}
    for key in given:
        changed.tree["dataset"].pop(key, None)
    changed.merge(given, f"{config.origin(_SCENES)}, key '{_SCENES}'", "dataset")
    alone: dict[str, object] = {"use_labels": False, "labelled": None, "unlabelled": []}
    changed.merge(alone, _SCENES, "dataset")
    return changed


def _point_files(part: Part) -> list[Path]:
    return [part.scans.files(row).points for row in part.rows.tolist()]


def _alike(paths: list[Path], known: list[Path]) -> np.ndarray:
    """Bool [N]: a file has the content of a known one, whatever both are called.

    A file that holds many scans is looked at once.
    """
    sizes = {path: os.path.getsize(path) for path in dict.fromkeys(paths)}
    wanted = set(sizes.values())
    contents = set()
    for path in dict.fromkeys(known):
        if os.path.getsize(path) in wanted:
            contents.add(file_stamp(path, time=False))
    alike = {path: file_stamp(path, time=False) in contents for path in sizes}
    return np.array([alike[path] for path in paths], bool)

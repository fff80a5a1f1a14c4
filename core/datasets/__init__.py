"""Raw scans on disk. ``DATASETS`` names the readers; a reader is imported only by a job whose config uses it."""

from __future__ import annotations

import difflib
import importlib

from core.config import Config
from core.datasets.base import ScanDataset, check_split
from core.errors import UserError

__all__ = ["DATASETS", "build_dataset", "dataset_class"]

DATASETS: dict[str, str] = {
    "semantickitti": "core.datasets.semantickitti:SemanticKITTI",
    "nuscenes": "core.datasets.nuscenes:NuScenes",
    "pandaset": "core.datasets.pandaset:PandaSet",
    "folder": "core.datasets.folder:FolderDataset",
}


def dataset_class(config: Config) -> type[ScanDataset]:
    """The reader that ``dataset.name`` asks for.

    Raises:
        UserError: no name, or an unknown one.
    """
    section = config.tree.get("dataset")
    name = section.get("name") if isinstance(section, dict) else None
    if name is None:
        raise UserError(
            "key 'dataset.name' is missing",
            where=config.origin("dataset.name"),
            cure=f"Set it to one of: {', '.join(DATASETS)}",
        )
    if name not in DATASETS:
        near = difflib.get_close_matches(str(name), DATASETS, n=1)
        raise UserError(
            f"key 'dataset.name' has the unknown value '{name}'",
            where=config.origin("dataset.name"),
            cure=f"Did you mean '{near[0]}'?"
            if near
            else f"Known data sets: {', '.join(DATASETS)}",
        )
    module, _, attribute = DATASETS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def build_dataset(config: Config, split: str) -> ScanDataset:
    """Open one split (``train``, ``val`` or ``test``) of the data set that ``config`` names.

    Raises:
        UserError: a wrong key, a missing folder, or a split without scans.
    """
    check_split(split)
    reader = dataset_class(config)
    return reader(config.parse(reader.Config, "dataset"), split)

"""Raw scans on disk. ``DATASETS`` names the readers; a reader is imported only by a job whose config uses it."""

from __future__ import annotations

from core.config import Config
from core.datasets.base import ScanDataset, check_split
from core.registry import look_up

__all__ = ["DATASETS", "build_dataset", "dataset_class"]

DATASETS: dict[str, str] = {
    "semantickitti": "core.datasets.semantickitti:SemanticKITTI",
    "nuscenes": "core.datasets.nuscenes:NuScenes",
    "pandaset": "core.datasets.pandaset:PandaSet",
    "waymo": "core.datasets.waymo.reader:Waymo",
    "folder": "core.datasets.folder:FolderDataset",
}


def dataset_class(config: Config) -> type[ScanDataset]:
    """The reader that ``dataset.name`` asks for.

    Raises:
        UserError: no name, or an unknown one.
    """
    return look_up(DATASETS, config, "dataset.name", "data sets")


def build_dataset(config: Config, split: str) -> ScanDataset:
    """Open one split (``train``, ``val`` or ``test``) of the data set that ``config`` names.

    A training split with a label budget, unlabelled scans or scans that are dropped is
    :class:`core.datasets.training.TrainingScans`.

    Raises:
        UserError: a wrong key, a missing folder, or a split without scans.
    """
    check_split(split)
    section = config.parse(dataset_class(config).Config, "dataset")
    chosen = section.labelled is not None or section.drop_static is not None
    if split != "train" or not (chosen or section.unlabelled):
        return _open(config, split)
    from core.datasets.unlabelled import training_scans

    return training_scans(config, section, _open)


def _open(config: Config, split: str) -> ScanDataset:
    """All scans of a split."""
    reader = dataset_class(config)
    return reader(config.parse(reader.Config, "dataset"), split)

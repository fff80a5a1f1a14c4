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

    A training split under a label budget is one of :class:`core.datasets.budgeted.BudgetedScans`.

    Raises:
        UserError: a wrong key, a missing folder, or a split without scans.
    """
    check_split(split)
    reader = dataset_class(config)
    section = config.parse(reader.Config, "dataset")
    dataset = reader(section, split)
    if split != "train" or section.labelled is None:
        return dataset
    from core.datasets.budgeted import with_budget

    return with_budget(dataset, section.labelled, rest=section.unlabelled == "rest")

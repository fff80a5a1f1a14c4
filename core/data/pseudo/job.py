"""The job of ``prepare_pseudo_labels.py``."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from core.config import Config
from core.data.pseudo.poses import CarrySettings, PoseCarrier
from core.data.pseudo.write import PseudoReport, write_pseudo_labels
from core.datasets import build_dataset
from core.datasets.budgeted import BudgetedScans
from core.errors import UserError

__all__ = ["budgeted_scans", "label_by_poses"]


def label_by_poses(
    config: Config, out: Path, options: Mapping[str, Any], workers: int = 1
) -> PseudoReport:
    """Carry the labels of the labelled training scans to the others.

    Args:
        config: its ``dataset`` names the scans and the budget. options: keys of :class:`CarrySettings`.
        workers: processes.

    Raises:
        UserError: there is no budget, a scan is damaged or has no pose, or ``out`` holds other labels.
    """
    given = Config(tree={"poses": dict(options)}, source="command line")
    settings = given.parse(CarrySettings, "poses")
    dataset = budgeted_scans(config)
    labelled = np.flatnonzero(dataset.budget).tolist()
    scenes = [dataset.scene(index) for index in range(len(dataset))]
    carrier = PoseCarrier(dataset, labelled, scenes, settings)
    made_from = {"source": "poses", **settings.model_dump()}
    return write_pseudo_labels(dataset, carrier, out, made_from, workers)


def budgeted_scans(config: Config) -> BudgetedScans:
    """The training split of a configuration with all its scans, as its budget labels them, without sweeps.

    Raises:
        UserError: the configuration has no budget.
    """
    config = deepcopy(config)
    wanted: dict[str, Any] = {"unlabelled": "rest", "pseudo_labels": None}
    if "multisweeps" in config.tree["dataset"]:
        wanted["multisweeps"] = {"num_sweeps": 0}
    config.merge(wanted, "prepare_pseudo_labels.py", "dataset")
    dataset = build_dataset(config, "train")
    if not isinstance(dataset, BudgetedScans):
        raise UserError(
            "every scan has its labels, so there are none to be labelled",
            where=config.origin("dataset.labelled"),
            cure="Set a budget, e.g. --dataset.labelled '{fraction: 0.1}'",
        )
    return dataset

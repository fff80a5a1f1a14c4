"""What ``prepare_pseudo_labels.py`` labels, and who carries labels by poses."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from core.config import Config
from core.data.pseudo.poses import CarrySettings, PoseCarrier
from core.data.pseudo.report import PseudoReport
from core.data.pseudo.write import write_pseudo_labels
from core.datasets import build_dataset
from core.datasets.training import TrainingScans
from core.errors import UserError

__all__ = ["budgeted_scans", "carrier_of", "label_by_poses"]


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
    dataset = budgeted_scans(config)
    carrier, made_from = carrier_of(dataset, options)
    return write_pseudo_labels(dataset, out, {"poses": made_from}, carrier=carrier, workers=workers)


def carrier_of(
    dataset: TrainingScans, options: Mapping[str, Any]
) -> tuple[PoseCarrier, dict[str, Any]]:
    """What carries the labels of a split, and all that its labels depend on, as JSON.

    Args:
        options: keys of :class:`CarrySettings`.

    Raises:
        UserError: an option is wrong, or see :class:`PoseCarrier`.
    """
    given = Config(tree={"poses": dict(options)}, source="command line")
    settings = given.parse(CarrySettings, "poses")
    labelled = np.flatnonzero(dataset.budget).tolist()
    scenes = [dataset.scene(index) for index in range(len(dataset))]
    carrier = PoseCarrier(dataset, labelled, scenes, settings)
    carried = None if carrier.classes is None else sorted(carrier.classes)
    made_from = {"classes": carried, "carried_from": carrier.digest, **settings.model_dump()}
    return carrier, made_from


def budgeted_scans(config: Config, *, sweeps: bool = False) -> TrainingScans:
    """The training split of a configuration with all its scans, as its budget labels them.

    Args:
        sweeps: scans have the sweeps that the configuration asks for.

    Raises:
        UserError: the configuration has no budget.
    """
    config = deepcopy(config)
    wanted: dict[str, Any] = {"pseudo_labels": None}
    if config.get("dataset.unlabelled") in (None, "none", []):
        wanted["unlabelled"] = "rest"
    if not sweeps and "multisweeps" in config.tree["dataset"]:
        wanted["multisweeps"] = {"num_sweeps": 0}
    config.merge(wanted, "prepare_pseudo_labels.py", "dataset")
    dataset = build_dataset(config, "train")
    if not isinstance(dataset, TrainingScans) or dataset.budget.all():
        raise UserError(
            "every scan has its labels, so there are none to be labelled",
            where=config.origin("dataset.labelled"),
            cure="Set a budget, e.g. --dataset.labelled '{fraction: 0.1}'",
        )
    return dataset

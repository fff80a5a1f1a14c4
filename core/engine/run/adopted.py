"""A checkpoint is its own configuration: network and view of the scans come from it, unless a person says otherwise.

What the given YAML or the command line sets is applied, on top of what the checkpoint was trained with, and every value
that is then another one is known by its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from loguru import logger

from core.config import Config
from core.data import DataConfig
from core.data.config import CELLS, DRAWN
from core.datasets import dataset_class
from core.engine.run.run_dir import flatten
from core.engine.run.trained import TrainedNetwork
from core.errors import UserError
from core.models import model_section

__all__ = [
    "CHANGES",
    "SCANS",
    "Adopted",
    "Change",
    "adopt",
    "changes_between",
    "settings_of",
    "shown_changes",
]

_LENGTH = ("num_epochs", "batch_size")  # required of every configuration, and without meaning here
SCANS = (
    "multisweeps",
    "columns",
    "sensor",
)  # keys of ``dataset:`` that change what a network reads
# last parts of keys that play a part in training alone, or follow from others
_NOT_COMPARED = {"weights", "dropout", "drop_path_rate", "checkpointing", "in_channel"}
_ABSENT = "not set"
CHANGES = "other_settings"  # in what scores and predictions remember


@dataclass(frozen=True)
class Change:
    """A setting that is another one than in the training."""

    key: str
    trained: Any
    used: Any

    def to_json(self) -> dict[str, Any]:
        """Plain values, for scores and predictions."""
        return {"key": self.key, "trained": self.trained, "used": self.used}

    def __str__(self) -> str:
        return f"{self.key} {self.trained!r} in training, {self.used!r} now"


@dataclass(frozen=True)
class Adopted:
    """A configuration completed by a checkpoint's, and what differs from that."""

    config: Config
    changes: tuple[Change, ...] = ()


def adopt(config: Config, found: TrainedNetwork) -> Adopted:
    """Complete a configuration by a checkpoint's: ``model:``, and of ``data:`` and ``dataset:`` what a network reads.

    Raises:
        UserError: the given configuration has a wrong key.
    """
    if found.tree is None:
        return Adopted(config)
    trained = found.config
    try:
        before = _settings(trained, config)
    except UserError as error:
        logger.warning("the configuration in the checkpoint is of another version: {}", error)
        return Adopted(config)
    completed = Config(source=config.source)
    completed.merge(_beneath(trained.tree, config.tree), trained.source)
    completed.merge(_without_empty(config.tree), config.source)
    completed.origins |= config.origins
    return Adopted(completed, _changes(before, settings_of(completed)))


def changes_between(trained: Config, used: Config) -> tuple[Change, ...]:
    """Settings of the network and its view of scans that differ; those of scans where both name one reader.

    Raises:
        UserError: one of the two has a wrong key.
    """
    return _changes(_settings(trained, used), settings_of(used))


def shown_changes(extra: Mapping[str, Any]) -> dict[str, str]:
    """What a score remembers of changes, as a fact of its report; empty where there were none."""
    described = []
    for change in extra.get(CHANGES, []):
        described.append(f"{change['key']} was {change['trained']} and is {change['used']}")
    if not described:
        return {}
    return {"Not as in training": "; ".join(described)}


def _without_empty(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree without sections that are there and say nothing."""
    return {key: value for key, value in tree.items() if value is not None}


def _changes(trained: Mapping[str, Any], used: Mapping[str, Any]) -> tuple[Change, ...]:
    """Parsed values that differ: two ways to say one thing are the same."""
    if trained["model.name"] != used["model.name"]:
        return (Change("model.name", trained["model.name"], used["model.name"]),)
    one_reader = any(key.startswith("dataset.") for key in trained)
    changes = []
    for key in {**trained, **used}:
        if key.startswith("dataset.") and not one_reader:
            continue
        before, now = trained.get(key, _ABSENT), used.get(key, _ABSENT)
        if before != now and key.rpartition(".")[2] not in _NOT_COMPARED:
            changes.append(Change(key, before, now))
    return tuple(changes)


def _beneath(trained: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's configuration gives to one that is laid over it."""
    kept: dict[str, Any] = {}
    for key in _LENGTH:
        if key in trained:
            kept[key] = trained[key]
    model = given.get("model") or {}
    kept["model"] = _same_component(trained.get("model", {}), model)
    data = given.get("data") or {}
    skipped: tuple[str, ...] = DRAWN
    if any(data.get(key) is not None for key in CELLS):  # the two keys name one thing
        skipped += CELLS
    kept["data"] = {}
    for key, value in trained.get("data", {}).items():
        if key not in skipped:
            kept["data"][key] = value
    theirs = trained.get("dataset", {})
    ours = given.get("dataset") or {}
    if theirs.get("name") == ours.get("name"):
        kept["dataset"] = {key: theirs[key] for key in SCANS if key in theirs}
    return deepcopy(kept)


def _same_component(trained: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The trained options of a component and of those in it, as far as no other one is asked for by name."""
    if given.get("name", trained.get("name")) != trained.get("name"):
        return {}
    kept = {}
    for key, value in trained.items():
        kept[key] = value
        if isinstance(value, Mapping) and isinstance(given.get(key), Mapping):
            kept[key] = _same_component(value, given[key])
    return kept


def settings_of(config: Config) -> dict[str, Any]:
    """Dotted key -> parsed value of all that changes what a network computes, as plain values."""
    return _settings(config, config)


def _settings(config: Config, scans: Config) -> dict[str, Any]:
    """:func:`settings_of` a configuration.

    Args:
        scans: says which data set is read; its keys count where both name one reader.
    """
    tree: dict[str, Any] = {
        "model": model_section(config).model_dump(mode="json"),
        "data": config.parse(DataConfig, "data").view(),
    }
    ours, theirs = config.get("dataset.name"), scans.get("dataset.name")
    if ours is not None and ours == theirs:
        tree["dataset"] = _scan_settings(config, scans)
    return flatten(tree)


def _scan_settings(config: Config, scans: Config) -> dict[str, Any]:
    section = dict(scans.tree["dataset"])
    for key in SCANS:
        section.pop(key, None)
        if key in config.tree["dataset"]:
            section[key] = config.tree["dataset"][key]
    reader = dataset_class(scans)
    parsed = Config({"dataset": section}, scans.origins, config.source)
    dumped = parsed.parse(reader.Config, "dataset").model_dump(mode="json", include={*SCANS})
    sweeps = dumped.get("multisweeps")
    if sweeps is not None and sweeps["num_sweeps"] == 0:  # what else it says has no effect
        dumped["multisweeps"] = {"num_sweeps": 0}
    return dumped

"""Where a trained network comes from: a run folder, a checkpoint, or an exported file; one function opens them all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from torch import Tensor

from core.config import Config
from core.data import DataConfig
from core.data.sensor_record import SensorRecord
from core.datasets import dataset_class
from core.decode import type_errors
from core.distill import method_class, network_outputs
from core.engine.run.checkpoint import EXPORTED, find_checkpoint, read_hashed
from core.engine.run.exported import read_exported
from core.errors import UserError
from core.io import sha256
from core.labels import LabelSpace

__all__ = ["TrainedNetwork", "read_network"]


_SECTIONS = ("dataset", "data", "model")  # which every use of a network reads


class _Identity(BaseModel):
    """What a file says its weights belong to, where it says it."""

    config: dict[str, Any] | None = None
    classes: list[str] = []
    fingerprint: str | None = None
    teacher: dict[str, Any] = {}
    teacher_sha256: str | None = None
    trained_on: str | None = None


@dataclass(frozen=True)
class TrainedNetwork:
    """A network's weights and what they belong to.

    Attributes:
        path, sha256: the file. weights: by name.
        training_only: weights of what learned beside the network, empty in exported files.
        tree: the configuration it was trained with, None where the file has none.
        classes: of its label space; fingerprint: of that, None in a file of others.
        sensor: what its training scans look like, None in older files.
        teacher_sha256: of the checkpoint it learned from, None where there was none.
        trained_on: its training data set, for a person; a made-up world says so. None in older files.
    """

    path: Path
    sha256: str
    weights: dict[str, Tensor]
    training_only: dict[str, Tensor] = field(default_factory=dict)
    tree: dict[str, Any] | None = None
    classes: tuple[str, ...] = ()
    fingerprint: str | None = None
    sensor: SensorRecord | None = None
    teacher_sha256: str | None = None
    trained_on: str | None = None

    @property
    def config(self) -> Config:
        """The configuration it was trained with.

        Raises:
            UserError: the file has none.
        """
        if self.tree is None:
            raise UserError(
                "the file does not say with which configuration its network was trained",
                where=str(self.path),
                cure="It was not made by this project; see 'python -m core.engine.exchange import'",
            )
        config = Config(source=f"configuration in {self.path}")
        config.merge(self.tree, config.source)
        for key in _SECTIONS:
            config.section(key)
        return config

    @property
    def outputs(self) -> int:
        """Width of its output: its classes, or the embedding of a pre-training.

        Raises:
            UserError: the file has no configuration.
        """
        config = self.config
        if method_class(config).predicts_classes():
            return len(self.classes)
        reader = dataset_class(config)
        return network_outputs(config, reader.label_space(config.parse(reader.Config, "dataset")))

    @property
    def intensity_divisor(self) -> float:
        """``data.intensity_divisor`` of the training."""
        if self.tree is None:
            return 1.0
        return self.config.parse(DataConfig, "data").intensity_divisor

    def check_labels(self, labels: LabelSpace, where: str | None = None) -> None:
        """Refuse a label space of other content; what it is called, and where its file lies, play no part.

        Args:
            where: the key that named the file, for the error.

        Raises:
            UserError: the network predicts other classes, or other ids on disk mean them.
        """
        if self.fingerprint == labels.fingerprint:
            return
        place = str(self.path) if where is None else f"{self.path}, {where}"
        if self.classes == labels.classes:
            raise UserError(
                f"this network was trained with another map from ids to the classes of '{labels.name}'",
                where=place,
                cure="Give the label space file (dataset.labels) the content it had in the training back",
            )
        raise UserError(
            f"this network was trained on {len(self.classes) - 1} other classes "
            f"({', '.join(self.classes[1:5])}, …) than those of '{labels.name}' ({labels.num_classes - 1})",
            where=place,
            cure="Use it with its own data set, or take one that was trained on these classes",
        )


def _check_identity(identity: object, path: Path) -> None:
    """Refuse an identity of other types."""
    try:
        _Identity.model_validate(identity)
    except ValidationError as error:
        raise UserError(
            f"what this file says its network belongs to is damaged: {type_errors(error)}",
            where=str(path),
            cure="Copy it again, or use another one",
        ) from error


def read_network(path: Path, where: str) -> TrainedNetwork:
    """Read a run folder's best checkpoint, a checkpoint, or an exported ``.safetensors``.

    Args:
        where: the key or option that gave the path, for the error.

    Raises:
        UserError: the file is missing, damaged, or not made by this project.
    """
    path = find_checkpoint(path, where)
    training_only: dict[str, Tensor] = {}
    if path.suffix == EXPORTED:
        weights, identity = read_exported(path)
        digest = sha256(path)
        _check_identity(identity, path)
        teacher = identity.get("teacher_sha256")
    else:
        state, digest = read_hashed(path)
        weights, identity = state["model"], state.get("identity") or {}
        _check_identity(identity, path)
        training_only = state.get("training_only") or {}
        teacher = identity.get("teacher", {}).get("sha256")
    return TrainedNetwork(
        path,
        digest,
        weights,
        training_only,
        identity.get("config"),
        tuple(identity.get("classes", ())),
        identity.get("fingerprint"),
        SensorRecord.from_json(identity.get("sensor")),
        teacher,
        identity.get("trained_on"),
    )
